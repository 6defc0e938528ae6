use std::ops::RangeInclusive;
use std::time::Duration;

use crate::random::Random;
use crate::statistics::NodeId;
use crate::time::nanos;

/// A message to the node itself takes this long, so that a node that talks to itself cannot stop time.
const LOOPBACK_NANOS: u64 = 1_000;

/// Behaviour of the network: one setting for all links that have none of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkConditions {
    /// Of a thousand messages, this many are lost.
    pub loss: u32,
    /// Of a thousand messages, this many arrive twice, the copy with a delay of its own.
    pub duplicates: u32,
    /// Of a thousand messages, this many are held up, so that later ones overtake them.
    pub reorder: u32,
    /// The longest time for which a message is held up.
    pub reorder_extra: Duration,
    /// Delay of a message.
    pub delay: RangeInclusive<Duration>,
}

impl Default for NetworkConditions {
    /// A good local network: 0.5 to 2 ms, and nothing is lost.
    fn default() -> Self {
        Self {
            loss: 0,
            duplicates: 0,
            reorder: 0,
            reorder_extra: Duration::ZERO,
            delay: Duration::from_micros(500)..=Duration::from_millis(2),
        }
    }
}

/// The links between the nodes, one for each direction.
///
/// A link keeps the order of its messages except of those that it holds up or copies. What is cut loses the
/// messages that are under way on it as well as new ones. What a node sends to itself always arrives.
#[derive(Debug)]
pub struct Network {
    nodes: usize,
    links: Vec<Link>,
    conditions: NetworkConditions,
    random: Random,
}

#[derive(Clone, Debug, Default)]
struct Link {
    cut: bool,
    loss: Option<u32>,
    delay: Option<(u64, u64)>,
    /// Arrival of the last message in order; the next one in order is not earlier.
    last_arrival: u64,
}

/// Arrival of a message, and of its copy. Neither, if it is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) arrival: Option<u64>,
    pub(crate) copy: Option<u64>,
}

impl Network {
    pub(crate) fn new(nodes: usize, conditions: NetworkConditions, random: Random) -> Self {
        Self { nodes, links: vec![Link::default(); nodes * nodes], conditions, random }
    }

    /// Loses this many of a thousand messages.
    pub fn set_loss(&mut self, per_thousand: u32) {
        self.conditions.loss = per_thousand;
    }

    /// Delivers this many of a thousand messages twice.
    pub fn set_duplicates(&mut self, per_thousand: u32) {
        self.conditions.duplicates = per_thousand;
    }

    /// Sets the delay of messages that are sent from now on.
    pub fn set_delay(&mut self, min: Duration, max: Duration) {
        self.conditions.delay = min..=max;
    }

    /// Holds up this many of a thousand messages for at most `extra`.
    pub fn set_reorder(&mut self, per_thousand: u32, extra: Duration) {
        self.conditions.reorder = per_thousand;
        self.conditions.reorder_extra = extra;
    }

    /// The settings for all links.
    pub fn conditions(&self) -> &NetworkConditions {
        &self.conditions
    }

    /// Replaces the settings for all links; those of single links stay.
    pub fn set_conditions(&mut self, conditions: NetworkConditions) {
        self.conditions = conditions;
    }

    /// Gives one direction of one link a loss of its own; `None` takes it back.
    pub fn set_link_loss(&mut self, from: NodeId, to: NodeId, per_thousand: Option<u32>) {
        self.link(from, to).loss = per_thousand;
    }

    /// Gives one direction of one link a delay of its own; `None` takes it back.
    pub fn set_link_delay(&mut self, from: NodeId, to: NodeId, delay: Option<RangeInclusive<Duration>>) {
        self.link(from, to).delay = delay.map(|delay| (nanos(*delay.start()), nanos(*delay.end())));
    }

    /// Cuts one direction. A node cannot be cut from itself.
    pub fn cut(&mut self, from: NodeId, to: NodeId) {
        self.link(from, to).cut = from != to;
    }

    /// Ends the cut of one direction.
    pub fn heal(&mut self, from: NodeId, to: NodeId) {
        self.link(from, to).cut = false;
    }

    /// True if this direction is cut.
    pub fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.links[from * self.nodes + to].cut
    }

    /// Cuts both directions between nodes of different groups. A node in no group keeps its links, and what
    /// was cut before stays cut.
    pub fn partition(&mut self, groups: &[&[NodeId]]) {
        for (index, group) in groups.iter().enumerate() {
            for other in groups.iter().skip(index + 1) {
                for &one in *group {
                    for &two in *other {
                        self.cut(one, two);
                        self.cut(two, one);
                    }
                }
            }
        }
    }

    /// Cuts both directions between the node and all others.
    pub fn isolate(&mut self, node: NodeId) {
        for other in 0..self.nodes {
            self.cut(node, other);
            self.cut(other, node);
        }
    }

    /// True if nothing gets from this node to any other, or nothing from any other to it.
    pub fn is_isolated(&self, node: NodeId) -> bool {
        let others = || (0..self.nodes).filter(move |other| *other != node);
        self.nodes > 1
            && (others().all(|other| self.is_cut(node, other))
                || others().all(|other| self.is_cut(other, node)))
    }

    /// Ends all cuts. The conditions stays.
    pub fn heal_all(&mut self) {
        for link in &mut self.links {
            link.cut = false;
        }
    }

    /// Ends all cuts, loss, duplicates and reordering, and the settings of single links. The delay stays.
    pub fn calm(&mut self) {
        for link in &mut self.links {
            *link = Link { last_arrival: link.last_arrival, ..Link::default() };
        }
        self.conditions =
            NetworkConditions { delay: self.conditions.delay.clone(), ..NetworkConditions::default() };
    }

    pub(crate) fn route(&mut self, from: NodeId, to: NodeId, now: u64) -> Route {
        if from == to {
            return Route { arrival: Some(now + LOOPBACK_NANOS), copy: None };
        }
        let link = &mut self.links[from * self.nodes + to];
        if link.cut || self.random.chance(link.loss.unwrap_or(self.conditions.loss)) {
            return Route { arrival: None, copy: None };
        }
        let (min, max) = match link.delay {
            Some(delay) => delay,
            None => (nanos(*self.conditions.delay.start()), nanos(*self.conditions.delay.end())),
        };
        let mut arrival = now + self.random.nanos(min, max);
        if self.random.chance(self.conditions.reorder) {
            arrival += self.random.nanos(0, nanos(self.conditions.reorder_extra));
        } else {
            arrival = arrival.max(link.last_arrival);
            link.last_arrival = arrival;
        }
        let copy = self
            .random
            .chance(self.conditions.duplicates)
            .then(|| now + self.random.nanos(min, max.saturating_mul(2)));
        Route { arrival: Some(arrival), copy }
    }

    fn link(&mut self, from: NodeId, to: NodeId) -> &mut Link {
        &mut self.links[from * self.nodes + to]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(nodes: usize) -> Network {
        Network::new(nodes, NetworkConditions::default(), Random::new(1))
    }

    #[test]
    fn a_link_keeps_the_order_unless_it_holds_messages_up() {
        let mut network = network(2);
        let in_order: Vec<u64> = (0..1000).filter_map(|now| network.route(0, 1, now).arrival).collect();
        assert!(in_order.is_sorted() && in_order.len() == 1000);

        network.set_reorder(100, Duration::from_millis(50));
        let mixed: Vec<u64> = (1000..2000).filter_map(|now| network.route(0, 1, now).arrival).collect();
        assert!(!mixed.is_sorted() && mixed.len() == 1000);
    }

    #[test]
    fn groups_are_cut_from_each_other_and_from_nobody_else() {
        let mut network = network(5);
        network.partition(&[&[0, 1], &[2], &[3]]);
        for (from, to, cut) in
            [(0, 1, false), (0, 2, true), (2, 1, true), (2, 3, true), (4, 0, false), (3, 4, false)]
        {
            assert_eq!(network.is_cut(from, to), cut, "{from} to {to}");
        }
        network.heal_all();
        network.isolate(4);
        assert!(network.is_isolated(4) && !network.is_isolated(0));
        assert!(!network.is_cut(4, 4) && !network.is_cut(0, 1));
    }

    #[test]
    fn a_link_may_have_its_own_loss_and_delay() {
        let mut network = network(3);
        network.set_link_loss(0, 1, Some(1000));
        network.set_link_delay(0, 2, Some(Duration::from_secs(1)..=Duration::from_secs(1)));
        assert_eq!(network.route(0, 1, 0).arrival, None);
        assert_eq!(network.route(0, 2, 0).arrival, Some(1_000_000_000));
        assert!(network.route(1, 0, 0).arrival.is_some());
        network.set_loss(500);
        network.calm();
        assert_eq!(*network.conditions(), NetworkConditions::default());
        assert!(network.route(0, 1, 0).arrival.is_some());
    }
}
