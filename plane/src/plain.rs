//! A plain HTTP request from its head to its upstream: `proxy/plain/` is the specification.
#![forbid(unsafe_code)]

use crate::flow::{Exchange, State};
use crate::record::Asked;
use crate::request::{self, Request};
use crate::shared::{Stage, Underway};
use crate::verdict::Verdict;
use crate::worker::Worker;
use std::ops::Range;
use std::sync::Arc;

/// Which kind of key: of every request to a host, or of one method and path.
const OF_HOST: u8 = 1;
const OF_PATH: u8 = 2;

/// All that says who asks, as `verdicts.key_of` has it.
pub fn add_credentials(key: &mut Vec<u8>, data: &[u8], credentials: &[(Range<usize>, Range<usize>)]) {
    for (name, value) in credentials {
        key.push(0);
        key.push(data[name.start].to_ascii_lowercase()); // the names that can be one begin with different letters
        key.extend_from_slice(&data[value.clone()]);
    }
}

/// What Python needs to go on with a request: its bytes with the head before them, and how far it has come.
pub fn handed_exchange(exchange: Option<Box<Exchange>>, unread: Vec<u8>) -> (Vec<u8>, Option<Underway>) {
    match exchange {
        None => (unread, None),
        Some(exchange) => {
            let head_length = exchange.head.len();
            let bytes = [exchange.head, unread].concat();
            let (request, started) = (exchange.request, exchange.started);
            (bytes, Some(Underway { head_length, request, started, unsent: Vec::new() }))
        }
    }
}

impl Worker {
    pub fn judge_plain(&mut self, place: u32, data: &[u8], began: u64) {
        let settings = &self.shared.settings;
        let request = match request::read(data, settings.max_head_bytes, settings.max_head_fields) {
            Some(request) => request,
            None => return self.hand_over_head(place, data),
        };
        let verdict = match self.plain_verdict_on(place, &request, data) {
            Some(verdict) => verdict,
            None => return self.hand_over_head(place, data),
        };
        let id = match self.new_id() {
            Some(id) if verdict.account.enter(&verdict.limits, self.now, &self.shared.turn) => id,
            _ => return self.hand_over_head(place, data),
        };
        if !verdict.open() {
            verdict.account.leave();
            return self.hand_over_head(place, data);
        }
        let asked = Asked { method: &data[request.method.clone()], path: &data[request.path.clone()] };
        self.grant(place, &verdict, id, began, &asked);
        self.begin_exchange(place, &verdict, &request, data);
    }

    fn hand_over_head(&mut self, place: u32, data: &[u8]) {
        let stage = if self.flows[place as usize].served { Stage::Plain } else { Stage::Head };
        self.hand_over(place, stage, data.to_vec());
    }

    fn plain_verdict_on(&mut self, place: u32, request: &Request, data: &[u8]) -> Option<Arc<Verdict>> {
        let mut key = self.key_of(place, &[OF_HOST]);
        key.extend_from_slice(&data[request.authority.clone()]);
        add_credentials(&mut key, data, &request.credentials);
        if let Some(verdict) = self.verdict_on(&key) {
            return Some(verdict);
        }
        key[4] = OF_PATH;
        key.extend_from_slice(&[0, 0]);
        key.extend_from_slice(&data[request.method.clone()]);
        key.push(b' ');
        key.extend_from_slice(&data[request.path.clone()]);
        self.verdict_on(&key)
    }

    fn begin_exchange(&mut self, place: u32, verdict: &Arc<Verdict>, request: &Request, data: &[u8]) {
        let host = verdict.plain.as_ref().map_or(&b""[..], |plain| &plain.host);
        let repeatable = request.is_repeatable(data);
        let first = request.encode(data, host);
        let exchange = Exchange {
            head: data[..request.length].to_vec(),
            method: request.method.clone(),
            path: request.path.clone(),
            keep_alive: request.keep_alive,
            to_head: data[request.method.clone()] == *b"HEAD",
            repeatable,
            request: request.body(),
            chunked: request.chunked,
            first_length: first.len(),
            first,
            content_length: request.content_length,
            copy: None,
            answer: Vec::new(),
            response: None,
            rechunk: false,
            clean: false,
            started: false,
            told: false,
            received: false,
            last: false,
        };
        let now = self.now;
        let flow = &mut self.flows[place as usize];
        flow.served = true;
        flow.exchange = Some(Box::new(exchange));
        flow.unread = data[request.length..].to_vec();
        flow.client.bytes = 0;
        flow.last_byte = now;
        match self.take_kept(verdict, repeatable) {
            Some(link) => {
                self.links[link as usize].flow = place;
                let flow = &mut self.flows[place as usize];
                flow.upstream = Some(link);
                if let Some(exchange) = flow.exchange.as_mut().filter(|exchange| exchange.repeatable) {
                    exchange.copy = Some(Vec::new());
                }
                self.send_first(place);
            }
            None => self.begin_dial(place),
        }
    }

    /// The upstream takes the request: its head, and what has come of its body.
    pub fn send_first(&mut self, place: u32) {
        let now = self.now;
        let flow = &mut self.flows[place as usize];
        flow.state = State::Exchange;
        flow.last_byte = now;
        let first = flow.exchange.as_mut().map(|exchange| std::mem::take(&mut exchange.first)).unwrap_or_default();
        self.arm(place, 0);
        if self.pass_request(place, first) {
            self.exchange(place);
        }
    }
}
