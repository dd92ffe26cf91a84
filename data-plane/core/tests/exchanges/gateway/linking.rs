//! How a node gets to know its server, and sends calls once it does: the handshake of either era, once for all calls
//! that wait for it.

use std::{collections::BTreeMap, time::Duration};

use bailiwick_data_plane_core::{
    forward,
    handshake::{self, Probe},
    relay::Relay,
};
use bailiwick_proto::mcp::{Era, RequestId, Response, read_response};

use super::{Gateway, Link, Phase, Sent, millis, request};
use crate::{
    script::PATIENCE_MS,
    wire::{Event, Exchange, Reply, Wires},
};

impl Gateway {
    /// Sends the call, once its node knows the server.
    pub(super) fn link(&mut self, wires: &mut Wires, number: u64) {
        let Some(call) = self.calls.get(&number).filter(|call| matches!(call.phase, Phase::Linking)) else { return };
        let node_number = call.node;
        let exchange = self.number();
        let node = &mut self.nodes[node_number];
        if let Some(link) = node.link.clone() {
            return self.send(wires, number, exchange, link);
        }
        node.waiting.push(number);
        if node.exchange.is_none() {
            node.exchange = Some((exchange, false));
            request(wires, exchange, handshake::discover_request(&RequestId::from(0)), None);
        }
    }

    fn send(&mut self, wires: &mut Wires, number: u64, exchange: Exchange, Link { era, session }: Link) {
        let id = RequestId::from(self.number());
        let Some(call) = self.calls.get_mut(&number) else { return };
        let first = || (Relay::new(&call.permitted.call, Duration::from_millis(PATIENCE_MS)), wires.now);
        let (mut relay, began) = call.spent.take().unwrap_or_else(first);
        relay.resumed(Duration::from_millis(wires.now - began));
        request(wires, exchange, forward::call_request(&call.permitted, era, &id), session.as_deref());
        wires.at(began + millis(relay.until()), Event::NodeWakes(number));
        call.phase = Phase::Sent(Sent { exchange, id, era, session, relay, began, open: BTreeMap::new() });
    }

    /// The server's answer to one step of the handshake.
    pub(super) fn shakes_hands(&mut self, wires: &mut Wires, node_number: usize, exchange: Exchange, reply: &Reply) {
        let (id, next) = (RequestId::from(0), self.number());
        let declared = self.declared.clone();
        let node = &mut self.nodes[node_number];
        let answer = read_response(&reply.body, &id).ok();
        let initializes = node.exchange == Some((exchange, true));
        let link = match (initializes, handshake::read_probe(reply.status, answer.as_ref()), answer) {
            (false, Probe::Modern, _) => Link { era: Era::Modern, session: None },
            (false, Probe::Legacy, _) => {
                node.exchange = Some((next, true));
                return request(wires, next, handshake::initialize_request(&id, Some(&declared)), None);
            }
            (true, _, Some(Response::Result(result))) => {
                let era = handshake::read_initialize(&result).unwrap();
                let done = handshake::initialized_notification(era);
                request(wires, next, done, reply.session.as_deref());
                Link { era, session: reply.session.clone() }
            }
            (_, probe, answer) => panic!("no handshake: {probe:?} {answer:?}"),
        };
        node.exchange = None;
        node.link = Some(link);
        for number in std::mem::take(&mut node.waiting) {
            self.link(wires, number);
        }
    }
}
