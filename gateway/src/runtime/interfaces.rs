//! Interfaces that vanish while the gateway runs: a driver that is loaded anew, a card that is taken out.
//!
//! Programs and sockets are of the interface that was there at the start. One that comes by its name later has neither, and the
//! kernel's settings of a new interface: the gateway ends, to be started again with that one. While there is none it goes on,
//! for the others.
use super::controller::Controller;
use super::engine::Engine;
use crate::dataplane::LostInterface;

/// What was told of interfaces.
#[derive(Debug, Default)]
pub(super) struct Interfaces {
    lost: Vec<LostInterface>,
}

impl Interfaces {
    /// Notes which are lost now and tells of changes. Answers why the gateway has to end, if it does.
    fn look(&mut self, lost: Vec<LostInterface>) -> Option<String> {
        let has = |interfaces: &[LostInterface], name: &str| interfaces.iter().any(|one| one.name == name);
        for LostInterface { name, .. } in lost.iter().filter(|one| !has(&self.lost, &one.name)) {
            tracing::error!(
                interface = name,
                "the interface is gone: nothing passes by it until one of its name is there, and the gateway is started with that one"
            );
        }
        for LostInterface { name, .. } in self.lost.iter().filter(|one| !has(&lost, &one.name)) {
            tracing::warn!(interface = name, "the interface has its name again");
        }
        self.lost = lost;
        self.lost.iter().find_map(|LostInterface { name, index, successor }| {
            let successor = (*successor)?;
            Some(format!(
                "interface `{name}` is another one now (index {successor}, it was {index}): the gateway has to be started again to serve by it"
            ))
        })
    }
}

impl<E: Engine> Controller<E> {
    /// A second went by.
    pub(super) fn next_second_of_interfaces(&mut self) {
        let lost = self.engine.lost_interfaces();
        if let Some(reason) = self.interfaces.look(lost) {
            self.must_end = Some(reason);
        }
        self.sockets.follow(&self.config);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(name: &str, successor: Option<u32>) -> LostInterface {
        LostInterface {
            name: name.to_owned(),
            index: 3,
            successor,
        }
    }

    #[test]
    fn the_gateway_ends_for_a_successor_and_for_nothing_else() {
        let mut interfaces = Interfaces::default();
        assert_eq!(interfaces.look(Vec::new()), None);
        assert_eq!(interfaces.look(vec![lost("wan", None)]), None);
        // A name that came back to the same interface.
        assert_eq!(interfaces.look(Vec::new()), None);
        let reason = interfaces
            .look(vec![lost("wan", None), lost("core", Some(9))])
            .unwrap();
        for word in ["`core`", "index 9", "was 3", "started again"] {
            assert!(reason.contains(word), "{word} in {reason}");
        }
    }
}
