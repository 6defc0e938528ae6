//! Byzantine author: it signs two segments for one position, withholds, forges, claims, and sets its clock
//! ahead.

use std::{collections::VecDeque, rc::Rc, time::Duration};

use bytes::Bytes;
use orch_core::store::{Key, Write};
use orch_store::crdt::{AuthorKey, Difference, Evidence, Head, Message, Owned, Range, Segment, Stamp};

use super::host::{Plan, Shared, key_of, moment};
use crate::{Context, NodeId, Process};

/// Segments of others that it remembers, to repeat them.
const KNOWN_MAX: usize = 64;

pub(super) struct ByzantineReplica {
    key: AuthorKey,
    plan: Rc<Plan>,
    shared: Shared,
    /// The ends of the logs that it has signed.
    heads: Vec<Head>,
    stamp: u64,
    known: VecDeque<Bytes>,
    seen: Option<Message>,
}

impl ByzantineReplica {
    pub(super) fn new(node: NodeId, plan: &Rc<Plan>, shared: &Shared) -> Self {
        Self {
            key: key_of(node),
            plan: Rc::clone(plan),
            shared: Rc::clone(shared),
            heads: vec![Head::default()],
            stamp: 0,
            known: VecDeque::new(),
            seen: None,
        }
    }

    fn some_node(&self, ctx: &mut Context<'_, Bytes>) -> NodeId {
        usize::try_from(ctx.random().below(self.plan.byzantine_from as u64)).unwrap_or_default()
    }

    fn tell(&self, ctx: &mut Context<'_, Bytes>, to: NodeId, message: &Message) {
        debug_assert!(to < self.plan.ids.len());
        ctx.send(to, message.encode().into());
    }

    /// Signs a segment after one of its heads.
    fn sign(&mut self, ctx: &mut Context<'_, Bytes>, ahead: Duration, write: Write) -> (Head, Bytes) {
        let at = usize::try_from(ctx.random().below(self.heads.len() as u64)).unwrap_or_default();
        let previous = self.heads[at];
        self.stamp += 1;
        let time = moment(ctx).wall.after(ahead + Duration::from_millis(self.stamp));
        let segment =
            Segment::sign(&self.key, self.plan.config.group, previous, Stamp::at(time), vec![write]);
        (previous, segment.encode().into())
    }

    fn attack(&mut self, ctx: &mut Context<'_, Bytes>) {
        let number = ctx.random().below(8);
        let write = |what: &str| {
            let key = Key::new(format!("k/{number}")).expect("a valid key");
            Write::put(key, format!("a attack: {what}"))
        };
        let author = self.key.author();
        let to = self.some_node(ctx);
        match ctx.random().below(9) {
            // A correct segment, but it goes to some replicas only.
            0 => {
                let (previous, segment) = self.sign(ctx, Duration::ZERO, write("withheld"));
                if let Ok(signed) = Segment::decode(segment.clone()) {
                    self.heads = vec![signed.signed().head()];
                }
                let message = Message::Supply {
                    author,
                    after: previous.position,
                    more: false,
                    segments: vec![segment],
                };
                for node in 0..self.plan.byzantine_from {
                    if ctx.random().chance(600) {
                        self.tell(ctx, node, &message);
                    }
                }
            }
            // Two segments at one position; once in a while, because it is caught at it.
            1 if ctx.random().chance(100) => {
                let mut heads = Vec::new();
                for node in 0..self.plan.byzantine_from {
                    let (previous, segment) = self.sign(ctx, Duration::ZERO, write(&format!("for {node}")));
                    heads.extend(Segment::decode(segment.clone()).map(|segment| segment.signed().head()));
                    let after = previous.position;
                    self.tell(
                        ctx,
                        node,
                        &Message::Supply { author, after, more: false, segments: vec![segment] },
                    );
                }
                self.heads = heads;
            }
            2 => {
                let (previous, segment) = self.sign(ctx, Duration::from_secs(3600), write("future"));
                let after = previous.position;
                self.tell(ctx, to, &Message::Supply { author, after, more: false, segments: vec![segment] });
            }
            3 => {
                let stolen = Owned::key(self.plan.ids[to], "own").expect("a valid key");
                let (previous, segment) =
                    self.sign(ctx, Duration::ZERO, Write::put(stolen, "a attack: stolen"));
                let after = previous.position;
                self.tell(ctx, to, &Message::Supply { author, after, more: false, segments: vec![segment] });
            }
            // A segment of another author, changed; or as it was, with the claim that there is nothing before
            // it.
            kind @ (4 | 5) => {
                let index = usize::try_from(ctx.random().below(KNOWN_MAX as u64)).unwrap_or_default();
                let Some(known) = self.known.get(index).cloned() else { return };
                let Ok(segment) = Segment::decode(known.clone()) else { return };
                let header = segment.signed().header;
                let mut bytes = known.to_vec();
                let (mut after, mut segments) = (header.position - 1, Vec::new());
                if kind == 4 {
                    let at = usize::try_from(ctx.random().below(bytes.len() as u64)).unwrap_or_default();
                    bytes[at] ^= 1;
                } else {
                    after = 0;
                }
                segments.push(bytes.into());
                self.tell(ctx, to, &Message::Supply { author: header.author, after, more: false, segments });
            }
            6 => {
                let group = self.plan.config.group;
                let heads = self.plan.ids.iter().map(|id| {
                    let position = ctx.random().below(1000);
                    (*id, Head { position, hash: group })
                });
                let heads = heads.collect();
                self.tell(ctx, to, &Message::Digest { group, complete: true, heads });
            }
            7 => {
                // Claims to have everything that another replica has.
                if let Some(seen) = self.seen.clone() {
                    self.tell(ctx, to, &seen);
                }
            }
            _ => {
                let Some(known) = self.known.front().cloned() else { return };
                let Ok(segment) = Segment::decode(known) else { return };
                let first = *segment.signed();
                let mut second = first;
                second.header.entries += 1;
                self.tell(ctx, to, &Message::Evidence(Box::new(Evidence { first, second })));
            }
        }
    }
}

impl Process for ByzantineReplica {
    type Message = Bytes;

    fn start(&mut self, ctx: &mut Context<'_, Bytes>) {
        ctx.set_timer(Duration::from_millis(50), 0);
    }

    fn receive(&mut self, from: NodeId, message: Bytes, ctx: &mut Context<'_, Bytes>) {
        if self.shared.borrow().quiet {
            return;
        }
        match Message::decode(message) {
            Ok(Message::Supply { segments, .. }) => {
                self.known.extend(segments);
                while self.known.len() > KNOWN_MAX {
                    self.known.pop_front();
                }
            }
            Ok(digest @ Message::Digest { .. }) => self.seen = Some(digest),
            // There is nothing here, or whatever comes to its mind.
            Ok(Message::Compare { nonce, ranges }) => {
                let answer = |(range, _)| (range, Difference::Items(Vec::new()));
                let mut answers: Vec<(Range, Difference)> = ranges.into_iter().map(answer).collect();
                if ctx.random().chance(200) {
                    answers.pop();
                }
                self.tell(ctx, from, &Message::Compared { nonce, answers });
            }
            Ok(Message::Want { author, after }) if ctx.random().chance(300) => {
                let segments = self.known.iter().take(3).cloned().collect();
                let supply = Message::Supply { author, after: after.position, more: true, segments };
                self.tell(ctx, from, &supply);
            }
            Ok(Message::Fetch { .. }) => {
                let segments = self.known.iter().take(5).cloned().collect();
                self.tell(ctx, from, &Message::Patch { segments });
            }
            _ => {}
        }
    }

    fn timer(&mut self, id: u64, ctx: &mut Context<'_, Bytes>) {
        if !self.shared.borrow().quiet {
            self.attack(ctx);
            let pause = ctx.random().duration(Duration::from_millis(20), Duration::from_millis(200));
            ctx.set_timer(pause, id);
        }
    }

    fn synced(&mut self, _: u64, _: &mut Context<'_, Bytes>) {}
}
