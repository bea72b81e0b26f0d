//! A peer that is careless with its additional key exchanges (RFC 9370 section 2.2.4).

use super::*;
use crate::{
    crypto::{
        dh::{DhGroup, DhPrivate},
        kem::{Kem, KemPrivate},
    },
    proposal::{offer_esp, offer_ike},
    wire::ke::KeyExchange,
};

const SPI: u32 = 0x0102_0304;

fn pair() -> Pair {
    Pair::new(false, |config| {
        config.esp_proposals = vec!["aes256gcm16-x25519-ke1_mlkem768-noesn".parse().unwrap()];
    })
}

fn notification(payloads: &[Payload], kind: u16) -> Option<Vec<u8>> {
    Message(payloads.to_vec())
        .notify(kind)
        .map(|notify| notify.data.clone())
}

/// The peer asks for a Child SA; the link that our answer has.
fn create_child_sa(pair: &mut Pair) -> Vec<u8> {
    let dh = DhPrivate::generate(DhGroup::X25519, &mut SystemRandom::new()).unwrap();
    let proposal = "aes256gcm16-x25519-ke1_mlkem768-noesn".parse().unwrap();
    let answer = pair.ask(
        Exchange::CreateChildSa,
        &[
            Payload::Sa(offer_esp(&[proposal], SPI, true)),
            Payload::Nonce(Nonce(vec![7; 32])),
            Payload::Ke(KeyExchange {
                group: DhGroup::X25519.id(),
                data: dh.public(),
            }),
            Payload::TsI(TrafficSelectors(vec![net("192.168.1.0/24")])),
            Payload::TsR(TrafficSelectors(vec![net("10.1.0.0/16")])),
        ],
    );
    let answer = answer.unwrap();
    assert!(pair.outputs.is_empty(), "nothing is installed yet");
    notification(&answer, kind::ADDITIONAL_KEY_EXCHANGE).unwrap()
}

fn follow_up(pair: &mut Pair, method: u16, link: &[u8]) -> Vec<Payload> {
    let private = KemPrivate::generate(Kem::MlKem768, &mut SystemRandom::new());
    let payloads = [
        Payload::Ke(KeyExchange {
            group: method,
            data: private.encapsulation_key(),
        }),
        Payload::Notify(Notify::new(kind::ADDITIONAL_KEY_EXCHANGE, link)),
    ];
    pair.ask(Exchange::IkeFollowupKe, &payloads).unwrap()
}

fn installs(pair: &Pair) -> usize {
    let installs = pair.outputs.iter();
    installs
        .filter(|one| matches!(one, Output::InstallChildSa(_)))
        .count()
}

#[test]
fn the_child_sa_is_made_by_the_last_exchange() {
    let mut pair = pair();
    pair.outputs.clear();
    let link = create_child_sa(&mut pair);
    let answer = follow_up(&mut pair, Kem::MlKem768.id(), &link);
    let ke = Message(answer.clone()).ke().cloned().unwrap();
    assert_eq!((ke.group, ke.data.len()), (36, Kem::MlKem768.ciphertext_len()));
    assert!(notification(&answer, kind::ADDITIONAL_KEY_EXCHANGE).is_none());
    assert_eq!(installs(&pair), 1);
    // The link has done its service.
    let again = follow_up(&mut pair, Kem::MlKem768.id(), &link);
    assert!(notification(&again, kind::STATE_NOT_FOUND).is_some());
    assert_eq!(installs(&pair), 1);
}

/// STATE_NOT_FOUND to what belongs to nothing, and nothing is made.
#[test]
fn what_belongs_to_nothing_is_refused() {
    let mut pair = pair();
    pair.outputs.clear();
    let kem = Kem::MlKem768.id();
    let unasked = follow_up(&mut pair, kem, &[1; 8]);
    assert!(notification(&unasked, kind::STATE_NOT_FOUND).is_some());
    let mut link = create_child_sa(&mut pair);
    link[0] ^= 1;
    let other_link = follow_up(&mut pair, kem, &link);
    assert!(notification(&other_link, kind::STATE_NOT_FOUND).is_some());
    link[0] ^= 1;
    // Another method than the one whose turn it is ends it.
    let other_method = follow_up(&mut pair, Kem::MlKem1024.id(), &link);
    assert!(notification(&other_method, kind::INVALID_SYNTAX).is_some());
    let too_late = follow_up(&mut pair, kem, &link);
    assert!(notification(&too_late, kind::STATE_NOT_FOUND).is_some());
    assert_eq!(installs(&pair), 0);
}

#[test]
fn what_was_agreed_is_not_kept_for_ever() {
    let mut pair = pair();
    pair.outputs.clear();
    let link = create_child_sa(&mut pair);
    let (due_ms, _) = pair.ours.poll_timeout().unwrap();
    assert!(due_ms <= pair.now_ms + 30_000);
    pair.now_ms += 30_000;
    let now = pair.now();
    pair.ours.handle_timeout(now);
    pair.drain();
    let late = follow_up(&mut pair, Kem::MlKem768.id(), &link);
    assert!(notification(&late, kind::STATE_NOT_FOUND).is_some());
    assert_eq!(installs(&pair), 0);
}

/// The peer offers ML-KEM when it rekeys the IKE SA, and says nothing more. Nothing can be asked of it until that is
/// given up, so nothing may be due before either: a deadline in the past would have the caller come back for ever.
#[test]
fn a_peer_that_falls_silent_amid_its_rekeying_keeps_nobody_busy() {
    let hybrid = || "aes256gcm16-prfsha256-x25519-ke1_mlkem768".parse().unwrap();
    let mut pair = Pair::new(false, |config| {
        config.dpd_after_s = 5;
        config.ike_proposals_accepted = vec![hybrid()];
    });
    let dh = DhPrivate::generate(DhGroup::X25519, &mut SystemRandom::new()).unwrap();
    let rekey = [
        Payload::Sa(offer_ike(&[hybrid()], Some(77))),
        Payload::Nonce(Nonce(vec![7; 32])),
        Payload::Ke(KeyExchange {
            group: DhGroup::X25519.id(),
            data: dh.public(),
        }),
    ];
    let answer = pair.ask(Exchange::CreateChildSa, &rekey).unwrap();
    assert!(notification(&answer, kind::ADDITIONAL_KEY_EXCHANGE).is_some());
    let until = pair.now_ms + 40_000;
    let mut asked_ms = None;
    while let Some((due_ms, reason)) = pair.ours.poll_timeout().filter(|(due_ms, _)| *due_ms <= until) {
        assert!(
            due_ms > pair.now_ms,
            "{reason:?} is due at once, at {}",
            pair.now_ms
        );
        pair.now_ms = due_ms;
        let now = pair.now();
        pair.ours.handle_timeout(now);
        pair.drain();
        asked_ms = asked_ms.or_else(|| (!pair.sent.is_empty()).then_some(pair.now_ms));
    }
    assert_eq!(
        asked_ms,
        Some(until - 10_000),
        "then it is asked whether it is there"
    );
}
