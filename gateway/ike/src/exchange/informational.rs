//! INFORMATIONAL (RFC 7296 section 1.4): deletions, and empty requests that ask whether the peer is there.

use std::sync::Arc;

use super::create_child_sa::{activate_successors, carry_on};
use crate::{
    child_sa::Phase,
    context::{Context, Deferred},
    ids::ChildId,
    ike_sa::{Core, Established, Pending},
    output::{CloseReason, Event},
    wire::{Message, Payload, delete::Delete, notify::kind},
};

/// Answers a request: response payloads, and why the IKE SA ends if it does.
pub(crate) fn respond(
    established: &mut Established,
    core: &Core,
    ctx: &mut Context<'_>,
    message: &Message,
) -> (Vec<Payload>, Option<CloseReason>) {
    let deletes = message.0.iter().filter_map(|payload| match payload {
        Payload::Delete(delete) => Some(delete),
        _ => None,
    });
    let deletes: Vec<_> = deletes.collect();
    if deletes.iter().any(|delete| matches!(delete, Delete::Ike)) {
        return (Vec::new(), Some(CloseReason::DeletedByPeer));
    }
    // The initiator did not believe us: it holds no such IKE SA.
    if message.notify(kind::AUTHENTICATION_FAILED).is_some() {
        return (
            Vec::new(),
            Some(CloseReason::PeerRefused("AUTHENTICATION_FAILED")),
        );
    }
    let mut deleted = Vec::new();
    for delete in deletes {
        if let Delete::Esp(spis) = delete {
            deleted.extend(
                spis.iter()
                    .filter_map(|spi| delete_by_peer(established, core, ctx, *spi)),
            );
        }
    }
    let answer = (!deleted.is_empty()).then_some(Payload::Delete(Delete::Esp(deleted)));
    (answer.into_iter().collect(), None)
}

/// Deletes the Child SA that the peer receives on `spi`; our SPI to put into the answer.
fn delete_by_peer(
    established: &mut Established,
    core: &Core,
    ctx: &mut Context<'_>,
    spi: u32,
) -> Option<u32> {
    let Some(child) = established.children.iter().find(|child| child.spi_out == spi) else {
        established.note_unknown_deletion(spi);
        return None;
    };
    let (id, spi_in) = (child.id, child.spi_in);
    // RFC 7296 section 1.4.1: when both sides delete it at once, neither answers with it.
    let crossing = matches!(&established.outstanding, Some(outstanding)
        if matches!(outstanding.pending, Pending::DeleteChild(own) if own == id));
    established.withdraw_collision(id);
    forget_child(established, core, ctx, id);
    (!crossing).then_some(spi_in)
}

/// Takes a Child SA out of service because one side deleted it. A successor that was not sending yet
/// starts to.
pub(crate) fn forget_child(established: &mut Established, core: &Core, ctx: &mut Context<'_>, id: ChildId) {
    let Some(index) = established.children.iter().position(|child| child.id == id) else {
        return;
    };
    let child = established.children.remove(index);
    activate_successors(established, ctx, id);
    if child.phase == Phase::Live {
        carry_on(established, ctx, &child);
    }
    ctx.deferred.push(Deferred::ChildGone {
        child: Box::new(child.clone()),
        peer: Arc::clone(&established.peer_identity),
    });
    match child.phase {
        Phase::Live => {
            ctx.remove(&child);
            ctx.event(Event::ChildSaClosed {
                child: id,
                ike_sa: core.id,
            });
        }
        Phase::Replaced | Phase::Deleting => ctx.remove_replaced(&child),
    }
}
