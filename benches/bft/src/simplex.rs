//! Four validators of `commonware-consensus` in its dialect `simplex`. One thread runs them, in simulated
//! time.

use std::time::{Duration, Instant};

use commonware_actor::Feedback;
use commonware_consensus::{
    Automaton, CertifiableAutomaton, Relay, Reporter, Viewable,
    simplex::{
        self, Engine, Floor, ForwardPolicy, Plan, SkipPolicy,
        elector::RoundRobin,
        scheme::ed25519::Scheme,
        types::{Activity, Context},
    },
    types::{Epoch, TermLength, ViewDelta},
};
use commonware_cryptography::{
    Sha256, Signer,
    ed25519::{PrivateKey, PublicKey},
    sha256::Digest,
};
use commonware_p2p::simulated::{self, Link, Network};
use commonware_parallel::Sequential;
use commonware_runtime::{Quota, Runner, Supervisor, buffer::paged::CacheRef, deterministic};
use commonware_utils::{
    NZDuration, NZU16, NZU32, NZUsize,
    channel::{oneshot, watch},
    ordered::Set,
    probability,
};
use orch_peer_benches::{Failure, Meter};

use crate::instances::Instances;

const VALIDATORS: u64 = 4;
const NAMESPACE: &[u8] = b"load";
const GENESIS: Digest = Digest([0; 32]);
/// Messages that a validator may send to another in a simulated second: more than it has to say.
const QUOTA: Quota = Quota::per_second(NZU32!(1_000_000));
/// The same for requests of certificates that were missed. None is, and a queue of this length is allocated.
const REQUESTS: Quota = Quota::per_second(NZU32!(1024));
/// Simulated and so long that none of them ever ends: nothing is lost here, and no validator is slow.
const NEVER: Duration = Duration::from_secs(1_000_000);
/// Views that a leader stays where it does not change with each.
const TERM: TermLength = TermLength::new(NZU32!(1024));

/// Counts at one validator what is final, until so much time has gone by on the wall. With `ahead`, the
/// leader stays and proposes so many views before the ones below are certified; otherwise it changes with
/// each view.
pub(crate) fn run(ahead: Option<u64>, warm: Duration, time: Duration) -> Result<Instances, Failure> {
    deterministic::Runner::seeded(1).start(async |context| measure(context, ahead, warm, time).await)
}

async fn measure(
    context: deterministic::Context,
    ahead: Option<u64>,
    warm: Duration,
    time: Duration,
) -> Result<Instances, Failure> {
    let keys: Vec<_> = (1..=VALIDATORS).map(PrivateKey::from_seed).collect();
    let peers = Set::from_iter_dedup(keys.iter().map(PrivateKey::public_key));
    let config = simulated::Config {
        max_size: 1 << 20,
        max_peers_per_set: NZUsize!(4),
        disconnect_on_block: true,
        tracked_peer_sets: NZUsize!(1),
    };
    let (network, oracle) = Network::new_with_peers(context.child("network"), config, peers.clone()).await;
    network.start();
    let link = Link { latency: Duration::ZERO, jitter: Duration::ZERO, success_rate: probability!(1.0) };
    for from in &peers {
        for to in peers.iter().filter(|to| *to != from) {
            oracle.add_link(from.clone(), to.clone(), link.clone()).await?;
        }
    }

    let (seen, mut progress) = watch::channel(Progress::default());
    let mut seen = Some(seen);
    for key in keys {
        let (us, context) = (key.public_key(), context.child("validator"));
        let control = oracle.control(us.clone());
        let elector = RoundRobin::<Sha256>::default();
        let config = simplex::Config {
            scheme: Scheme::signer(NAMESPACE, peers.clone(), key).ok_or("not a validator")?,
            elector: match ahead {
                Some(ahead) => elector.with_term(TERM, 3 * NEVER, ViewDelta::new(ahead)),
                None => elector,
            },
            blocker: control.clone(),
            automaton: Application,
            relay: Application,
            reporter: Counting(seen.take()),
            track_historical_votes: false,
            strategy: Sequential,
            partition: us.to_string(),
            mailbox_size: NZUsize!(1024),
            epoch: Epoch::new(1),
            floor: Floor::Genesis(GENESIS),
            replay_buffer: NZUsize!(1 << 20),
            write_buffer: NZUsize!(1 << 20),
            page_cache: CacheRef::new(NZU16!(1024), NZUsize!(10)),
            leader_timeout: NEVER,
            certification_timeout: 2 * NEVER,
            timeout_retry: NEVER,
            view_retention: ViewDelta::new(10),
            skip: SkipPolicy::Disabled,
            fetch_timeout: NZDuration!(NEVER),
            fetch_retry_delay: NEVER,
            forward: ForwardPolicy::Disabled,
        };
        let votes = control.register(0, QUOTA).await?;
        let certificates = control.register(1, QUOTA).await?;
        let resolver = control.register(2, REQUESTS).await?;
        Engine::new(context.child("engine"), config).start(votes, certificates, resolver);
    }

    let from = over(&mut progress, warm).await?;
    let meter = Meter::begin();
    let to = over(&mut progress, time).await?;
    let figures = meter.end(Vec::new());
    Ok(Instances { count: to - from, wall: figures.wall, cpu: figures.cpu })
}

/// Observations of one validator.
#[derive(Default)]
struct Progress {
    /// The highest view that is final. With it, so are those below that were not skipped.
    last: u64,
    /// A view was skipped.
    skipped: bool,
}

/// The highest view that is final at the end of this time.
async fn over(progress: &mut watch::Receiver<Progress>, time: Duration) -> Result<u64, Failure> {
    let begun = Instant::now();
    loop {
        progress.changed().await?;
        let seen = progress.borrow_and_update();
        if seen.skipped {
            // Views would be no count of what was agreed on.
            return Err("a view was skipped".into());
        }
        if begun.elapsed() >= time {
            return Ok(seen.last);
        }
    }
}

/// Answers at once. There are no payloads: what is ordered is a digest.
#[derive(Clone)]
struct Application;

fn at_once<T>(answer: T) -> oneshot::Receiver<T> {
    let (sender, receiver) = oneshot::channel();
    // It fails only without the receiver, which is here.
    drop(sender.send(answer));
    receiver
}

impl Automaton for Application {
    type Context = Context<Digest, PublicKey>;
    type Digest = Digest;

    async fn propose(&mut self, context: Self::Context) -> oneshot::Receiver<Digest> {
        let mut digest = [7; 32];
        digest[..8].copy_from_slice(&context.view().get().to_be_bytes());
        at_once(Digest(digest))
    }

    async fn verify(&mut self, _: Self::Context, _: Digest) -> oneshot::Receiver<bool> {
        at_once(true)
    }
}

impl CertifiableAutomaton for Application {}

impl Relay for Application {
    type Digest = Digest;
    type PublicKey = PublicKey;
    type Plan = Plan<PublicKey>;

    fn broadcast(&mut self, _: Digest, _: Self::Plan) -> Feedback {
        Feedback::Ok
    }
}

/// Records at one validator what is final; others keep nothing.
#[derive(Clone)]
struct Counting(Option<watch::Sender<Progress>>);

impl Reporter for Counting {
    type Activity = Activity<Scheme, Digest>;

    fn report(&mut self, activity: Self::Activity) -> Feedback {
        let Some(seen) = &self.0 else { return Feedback::Ok };
        match activity {
            Activity::Finalization(of) => seen.send_modify(|seen| seen.last = seen.last.max(of.view().get())),
            Activity::Nullification(_) => seen.send_modify(|seen| seen.skipped = true),
            _ => {}
        }
        Feedback::Ok
    }
}
