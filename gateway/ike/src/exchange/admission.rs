//! Who is let in to IKE_SA_INIT: what a request has to bring before a key exchange is computed for it
//! (RFC 7296 section 2.6, RFC 8019 section 7.1). All that is decided here costs at most a few hashes.

use super::Refusal;
use crate::{
    context::{Context, Path},
    cookie::CookieJar,
    crypto::prf::PrfAlgorithm,
    half_open::{Demand, HalfOpen},
    puzzle::Puzzle,
    wire::{
        Header, Message,
        notify::{Notify, kind},
        sa::{SecurityAssociation, transform_type},
    },
};

/// What the decision needs to know and to write down.
pub(crate) struct Gate<'a> {
    pub(crate) half_open: &'a mut HalfOpen,
    pub(crate) cookies: &'a mut CookieJar,
}

/// The decision.
pub(super) enum Admission {
    /// Answer it; `proven` when the initiator receives at its address.
    Admitted { proven: bool },
    /// Send these back and forget the request.
    Ask(Vec<Notify>),
    /// Malformed: say so.
    Refuse(Refusal),
    /// Not a word.
    Drop,
}

impl Gate<'_> {
    pub(super) fn admit(
        &mut self,
        ctx: &mut Context<'_>,
        path: Path,
        header: &Header,
        message: &Message,
    ) -> Admission {
        let Some(nonce) = message.nonce() else {
            return Admission::Refuse(Refusal::syntax());
        };
        let cookie = message.notify(kind::COOKIE);
        let now_ms = ctx.now.mono_ms;
        // Bits of the puzzle that went with the cookie, once it is known to be ours.
        let proof = cookie.and_then(|cookie| {
            self.cookies
                .accepts(now_ms, ctx.random, &cookie.data, &nonce.0, path, header.spi_i)
        });
        let source = path.remote.ip().into();
        match (self.half_open.demand(ctx.config, source, proof.is_some()), proof) {
            (Demand::Refuse, _) => {
                ctx.counters.half_open_full += 1;
                Admission::Drop
            }
            (Demand::Nothing, proof) => Admission::Admitted {
                proven: proof.is_some(),
            },
            (Demand::Cookie, _) => Admission::Ask(self.cookie(ctx, path, header, &nonce.0, 0)),
            (Demand::Puzzle { .. }, Some(asked)) if asked > 0 => {
                let cookie = cookie.map(|cookie| cookie.data.as_slice()).unwrap_or_default();
                self.check_solution(ctx, message, cookie, asked)
            }
            (Demand::Puzzle { bits }, _) => Admission::Ask(self.puzzle(ctx, path, header, message, bits)),
        }
    }

    /// RFC 8019 section 7.1.4: without a solution only a few are let in, with a wrong one nobody.
    fn check_solution(
        &mut self,
        ctx: &mut Context<'_>,
        message: &Message,
        cookie: &[u8],
        bits: u8,
    ) -> Admission {
        let Some(solution) = message.puzzle_solution() else {
            if self.half_open.admits_unsolved(ctx.config, ctx.now.mono_ms) {
                return Admission::Admitted { proven: true };
            }
            ctx.counters.half_open_full += 1;
            return Admission::Drop;
        };
        let puzzle = Puzzle {
            prf: offered_prf(message.sa()),
            bits,
        };
        if puzzle.is_solved(cookie, &solution.0) {
            ctx.counters.puzzles_solved += 1;
            Admission::Admitted { proven: true }
        } else {
            ctx.counters.puzzles_failed += 1;
            Admission::Drop
        }
    }

    /// A cookie, made for this request.
    pub(super) fn cookie(
        &mut self,
        ctx: &mut Context<'_>,
        path: Path,
        header: &Header,
        nonce: &[u8],
        bits: u8,
    ) -> Vec<Notify> {
        ctx.counters.cookies_sent += 1;
        let cookie = self
            .cookies
            .bake(ctx.now.mono_ms, ctx.random, nonce, path, (header.spi_i, bits));
        vec![Notify::new(kind::COOKIE, cookie)]
    }

    fn puzzle(
        &mut self,
        ctx: &mut Context<'_>,
        path: Path,
        header: &Header,
        message: &Message,
        bits: u8,
    ) -> Vec<Notify> {
        let nonce = message
            .nonce()
            .map(|nonce| nonce.0.as_slice())
            .unwrap_or_default();
        let mut notifies = self.cookie(ctx, path, header, nonce, bits);
        ctx.counters.puzzles_sent += 1;
        let puzzle = Puzzle {
            prf: offered_prf(message.sa()),
            bits,
        };
        notifies.push(Notify::new(kind::PUZZLE, puzzle.to_wire()));
        notifies
    }
}

/// RFC 8019 section 7.1.1.2: the PRF of the puzzle is one that the initiator offers. The request that brings
/// the solution has the same proposals, so this comes to the same.
fn offered_prf(offer: Option<&SecurityAssociation>) -> PrfAlgorithm {
    let offered = offer
        .into_iter()
        .flat_map(|offer| &offer.proposals)
        .flat_map(|proposal| &proposal.transforms)
        .filter(|transform| transform.kind == transform_type::PRF)
        .find_map(|transform| PrfAlgorithm::from_id(transform.id));
    offered.unwrap_or(PrfAlgorithm::HmacSha256)
}
