//! What waits for a share of the workers: each client gets the same, and within a client each request.
//!
//! Shares are counted in tokens, by the rule of [`super::fairness`]. A client is charged all tokens
//! of its texts, so that one with longer texts gets no more than others. Among the requests of one
//! client a text counts as at most [`MOST_COST_TOKENS`]: a long one waits for that much of each other
//! request and not for twenty short texts.
//!
//! A client is large when [`LARGE_TOKENS`] tokens of it wait or more, and so is a request. Small and
//! large ones are never run together: a text that is alone does not wait for a run which the many
//! texts of another client or of another request make longer.

use std::collections::{BTreeMap, VecDeque};

use super::fairness::{ClientId, Flow, Held, MOST_COST_TOKENS, Member, Turns};

/// Tokens of a client or of a request that wait, from which on it is large.
const LARGE_TOKENS: usize = 128;

/// Where a text waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The request that it belongs to.
    pub flow: Flow,
    /// Its tokens.
    pub tokens: usize,
    number: i64,
}

/// The texts of one request, in their order.
type Line<T> = BTreeMap<i64, (usize, T)>;

type Client<T> = Turns<Flow, Line<T>>;

/// Texts that wait, `T` each.
#[derive(Debug)]
pub struct Shares<T> {
    clients: Turns<ClientId, Client<T>>,
    held: Held,
}

impl<T> Default for Shares<T> {
    fn default() -> Self {
        Self { clients: Turns::default(), held: Held::default() }
    }
}

impl<T> Shares<T> {
    /// Puts a text behind the others of its request.
    pub fn enter(&mut self, flow: Flow, tokens: usize, text: T) -> Place {
        let line = self.line(flow, tokens);
        let number = line.last_key_value().map_or(0, |(last, _)| last + 1);
        line.insert(number, (tokens, text));
        Place { flow, tokens, number }
    }

    /// Puts a text that was taken but not served before the others of its request, which is charged
    /// nothing for it.
    pub fn put_back(&mut self, flow: Flow, tokens: usize, text: T) {
        let line = self.line(flow, tokens);
        let number = line.first_key_value().map_or(0, |(first, _)| first - 1);
        line.insert(number, (tokens, text));
        self.clients.refund(flow.client(), tokens);
        if let Some(client) = self.clients.texts_mut(flow.client()) {
            client.refund(flow, cost(tokens));
        }
    }

    fn line(&mut self, flow: Flow, tokens: usize) -> &mut Line<T> {
        self.held = self.held.with(tokens);
        self.clients.enter(flow.client(), tokens).enter(flow, tokens)
    }

    /// All that waits.
    #[must_use]
    pub fn held(&self) -> Held {
        self.held
    }

    /// What waits of one request.
    #[must_use]
    pub fn held_in(&self, flow: Flow) -> Held {
        let client = self.clients.member(flow.client());
        client.and_then(|client| client.texts.member(flow)).map(|flow| flow.held).unwrap_or_default()
    }

    /// What waits of each client, in the order of their turns.
    pub fn clients(&self) -> impl Iterator<Item = (ClientId, Held)> {
        self.clients.in_order().map(|(client, member)| (client, member.held))
    }

    /// What waits of each request of a client, with the last text of it, in the order of their turns.
    pub fn flows_of(&self, client: ClientId) -> impl Iterator<Item = (Held, Place)> {
        self.clients.member(client).into_iter().flat_map(|client| client.texts.in_order()).filter_map(
            |(flow, member)| {
                let (number, (tokens, _)) = member.texts.last_key_value()?;
                Some((member.held, Place { flow, tokens: *tokens, number: *number }))
            },
        )
    }

    /// Every text.
    pub fn all(&self) -> impl Iterator<Item = (Place, &T)> {
        let flows = self.clients.in_order().flat_map(|(_, client)| client.texts.in_order());
        flows.flat_map(|(flow, member)| places(flow, member))
    }

    /// The text whose turn it is, and those that may be run with it, `most` in all: clients take
    /// turns, and within a client its requests.
    pub fn candidates(&self, most: usize) -> Vec<(Place, &T)> {
        let Some((_, first_client)) = self.clients.in_order().next() else { return Vec::new() };
        let Some((_, first_flow)) = first_client.texts.in_order().next() else { return Vec::new() };
        let clients = self.clients.in_order().filter(|(_, client)| is_large(client) == is_large(first_client));
        let lines = clients.map(|(_, client)| {
            let flows = client.texts.in_order().filter(|(_, flow)| is_large(flow) == is_large(first_flow));
            in_turns(flows.map(|(flow, member)| places(flow, member)).take(most))
        });
        in_turns(lines.take(most)).take(most).collect()
    }

    /// Takes out texts that are served now; the first is the one whose turn it was.
    pub fn serve(&mut self, places: &[Place]) -> Vec<T> {
        let texts = places.iter().filter_map(|place| self.take_out(place)).collect();
        let first = places.first().map(|place| place.flow);
        let mut of_client: BTreeMap<ClientId, Vec<&Place>> = BTreeMap::new();
        for place in places {
            of_client.entry(place.flow.client()).or_default().push(place);
        }
        for (client, places) in of_client {
            let first = first.filter(|first| first.client() == client);
            if let Some(flows) = self.clients.texts_mut(client) {
                flows.serve(first, places.iter().map(|place| (place.flow, place.tokens, cost(place.tokens))));
            }
        }
        let charged = places.iter().map(|place| (place.flow.client(), place.tokens, place.tokens));
        self.clients.serve(first.map(Flow::client), charged);
        texts
    }

    /// Takes out a text that is not served.
    pub fn remove(&mut self, place: &Place) -> Option<T> {
        let text = self.take_out(place)?;
        let client = place.flow.client();
        if let Some(flows) = self.clients.texts_mut(client) {
            flows.leave(place.flow, place.tokens);
        }
        self.clients.leave(client, place.tokens);
        Some(text)
    }

    fn take_out(&mut self, place: &Place) -> Option<T> {
        let line = self.clients.texts_mut(place.flow.client())?.texts_mut(place.flow)?;
        let (tokens, text) = line.remove(&place.number)?;
        self.held = self.held.without(tokens);
        Some(text)
    }
}

fn is_large<V>(member: &Member<V>) -> bool {
    member.held.tokens >= LARGE_TOKENS
}

/// What a request is charged for a text.
fn cost(tokens: usize) -> usize {
    tokens.min(MOST_COST_TOKENS)
}

fn places<T>(flow: Flow, member: &Member<Line<T>>) -> impl Iterator<Item = (Place, &T)> {
    member.texts.iter().map(move |(number, (tokens, text))| (Place { flow, tokens: *tokens, number: *number }, text))
}

/// The first of each line, then the second of each, and so on.
fn in_turns<I: Iterator>(lines: impl Iterator<Item = I>) -> impl Iterator<Item = I::Item> {
    let mut lines: VecDeque<I> = lines.collect();
    std::iter::from_fn(move || {
        loop {
            let mut line = lines.pop_front()?;
            if let Some(item) = line.next() {
                lines.push_back(line);
                return Some(item);
            }
        }
    })
}

#[cfg(test)]
mod tests;
