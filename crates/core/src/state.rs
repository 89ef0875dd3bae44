//! The two states of an agent and the legal moves between them.
//!
//! *Desired* is what the user asked for; the control plane owns it.
//! *Observed* is what is; each edge of [`EDGES`] names who may write it.
//!
//! ```text
//! pending ──► creating ──► running ──► stopping ──► stopped ─┐
//!    ▲            │        │  ▲ ▲  \                          │ start
//!    │            ▼        │  │ │   ► pausing ► paused        │
//!    │          failed ◄───┘  │ └────── resuming ◄──┘         │
//!    └────────────┴───────────┼───────────────────────────────┘
//!                 restoring ──┘     lost ◄─► whatever a node held
//!                                   gone: from everywhere, terminal
//! ```

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

macro_rules! text_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            pub const fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = UnknownState;
            fn from_str(text: &str) -> Result<Self, UnknownState> {
                match text { $($text => Ok($name::$variant),)+ _ => Err(UnknownState(text.chars().take(40).collect())) }
            }
        }
    };
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown state {0:?}")]
pub struct UnknownState(pub String);

text_enum!(/// What the user wants.
Desired { Running = "running", Paused = "paused", Stopped = "stopped", Gone = "gone" });

text_enum!(/// What is.
Observed {
    /// Accepted; no node has begun.
    Pending = "pending",
    /// A node has it: queued there, or booting.
    Creating = "creating",
    /// The guest answered ready.
    Running = "running",
    Pausing = "pausing",
    Paused = "paused",
    Resuming = "resuming",
    Restoring = "restoring",
    Stopping = "stopping",
    /// No sandbox; the disk is kept.
    Stopped = "stopped",
    /// As stopped, but not by anyone's wish.
    Failed = "failed",
    /// Its node's lease is over.
    Lost = "lost",
    Gone = "gone",
});

impl Observed {
    /// Whether CPU and memory are reserved on a node in this state.
    pub fn holds_compute(self) -> bool {
        !matches!(self, Observed::Pending | Observed::Stopped | Observed::Failed | Observed::Gone)
    }

    /// Whether the sandbox may be live on a node in this state.
    pub fn on_node(self) -> bool {
        self.holds_compute() && self != Observed::Lost
    }
}

/// Who may write an edge of the observed state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// The control plane, by itself.
    Control,
    /// The node that holds the agent, by its report.
    Node,
}

/// Every legal move of the observed state with its owner and its occasion.
pub const EDGES: &[(Observed, Observed, Owner, &str)] = {
    use Observed::{
        Creating, Failed, Gone, Lost, Paused, Pausing, Pending, Restoring, Resuming, Running, Stopped, Stopping,
    };
    use Owner::{Control, Node};
    &[
        (Pending, Creating, Node, "a node journaled the assignment"),
        (Pending, Restoring, Node, "a node begins from a checkpoint"),
        (Pending, Stopped, Control, "stopped before a node had it"),
        (Pending, Failed, Control, "can never be placed, or waited too long"),
        (Pending, Gone, Control, "deleted before a node had it"),
        (Creating, Running, Node, "the guest answered ready"),
        (Creating, Failed, Node, "image, boot or guest failed"),
        (Creating, Stopping, Node, "stop while booting"),
        (Creating, Stopped, Node, "the main process ended at once, or was never started"),
        (Running, Pausing, Node, "pause began"),
        (Running, Stopping, Node, "stop, or ttl, began"),
        (Running, Stopped, Node, "the main process ended"),
        (Running, Failed, Node, "the VMM died"),
        (Pausing, Paused, Node, "memory is saved"),
        (Pausing, Running, Node, "the pause failed and was undone"),
        (Pausing, Failed, Node, "the VMM died"),
        (Paused, Resuming, Node, "resume began"),
        (Paused, Stopping, Node, "stop of a paused agent began"),
        (Paused, Stopped, Node, "nothing was running any more"),
        (Paused, Failed, Node, "the saved state is unusable"),
        (Resuming, Running, Node, "the guest confirmed its new identity"),
        (Resuming, Paused, Node, "the resume failed and was undone"),
        (Resuming, Failed, Node, "the saved state is unusable"),
        (Restoring, Running, Node, "the guest confirmed its new identity"),
        (Restoring, Stopping, Node, "stop while restoring"),
        (Restoring, Failed, Node, "the checkpoint is unusable"),
        (Stopping, Stopped, Node, "the VMM is gone"),
        (Stopping, Failed, Node, "the VMM died before the guest was done"),
        (Stopped, Pending, Control, "start"),
        (Failed, Pending, Control, "start"),
        (Creating, Lost, Control, "the node's lease is over"),
        (Running, Lost, Control, "the node's lease is over"),
        (Pausing, Lost, Control, "the node's lease is over"),
        (Paused, Lost, Control, "the node's lease is over"),
        (Resuming, Lost, Control, "the node's lease is over"),
        (Restoring, Lost, Control, "the node's lease is over"),
        (Stopping, Lost, Control, "the node's lease is over"),
        (Lost, Creating, Node, "the node is back"),
        (Lost, Running, Node, "the node is back"),
        (Lost, Paused, Node, "the node is back"),
        (Lost, Stopping, Node, "the node is back"),
        (Lost, Stopped, Node, "the node is back"),
        (Lost, Failed, Node, "the node is back"),
        (Lost, Pending, Control, "recovery places it again"),
        (Creating, Gone, Node, "erased"),
        (Running, Gone, Node, "erased"),
        (Pausing, Gone, Node, "erased"),
        (Paused, Gone, Node, "erased"),
        (Resuming, Gone, Node, "erased"),
        (Restoring, Gone, Node, "erased"),
        (Stopping, Gone, Node, "erased"),
        (Stopped, Gone, Node, "erased"),
        (Failed, Gone, Node, "erased"),
        (Lost, Gone, Node, "the node is back, and erased it"),
        (Stopped, Gone, Control, "no node ever held it"),
        (Failed, Gone, Control, "no node ever held it"),
        (Lost, Gone, Control, "an operator declared the node dead"),
    ]
};

/// Whether `by` may move the observed state so. Staying is always legal, but
/// in `gone` nothing is written any more.
pub fn may_move(from: Observed, to: Observed, by: Owner) -> bool {
    from == to && from != Observed::Gone || EDGES.iter().any(|(f, t, o, _)| (*f, *t, *o) == (from, to, by))
}

/// Whether a user may change the desired state so. Nothing leaves `gone`.
pub fn may_desire(from: Desired, _to: Desired) -> bool {
    from != Desired::Gone
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn gone_is_the_only_terminal_state() {
        for state in Observed::ALL {
            let leaves = EDGES.iter().any(|(from, ..)| from == state);
            assert_eq!(leaves, *state != Observed::Gone, "{state}");
        }
        assert!(!may_move(Observed::Gone, Observed::Gone, Owner::Node));
    }

    #[test]
    fn no_edge_is_listed_twice() {
        let edges: BTreeSet<_> = EDGES.iter().map(|(f, t, o, _)| (*f, *t, *o)).collect();
        assert_eq!(edges.len(), EDGES.len());
    }

    /// Walks the graph from `pending`: every state and every edge is reached,
    /// and from every state there is a way to `gone` and, but for `gone`, to
    /// `running`.
    #[test]
    fn every_edge_is_reached_and_every_state_can_end() {
        let reach = |start: Observed| {
            let mut seen = BTreeSet::from([start]);
            let mut edges = BTreeSet::new();
            let mut queue = vec![start];
            while let Some(at) = queue.pop() {
                for (from, to, owner, _) in EDGES.iter().filter(|(f, ..)| *f == at) {
                    edges.insert((*from, *to, *owner));
                    if seen.insert(*to) {
                        queue.push(*to);
                    }
                }
            }
            (seen, edges)
        };
        let (states, edges) = reach(Observed::Pending);
        assert_eq!(states.len(), Observed::ALL.len());
        assert_eq!(edges.len(), EDGES.len());
        for state in Observed::ALL.iter().filter(|s| **s != Observed::Gone) {
            let (states, _) = reach(*state);
            assert!(states.contains(&Observed::Gone) && states.contains(&Observed::Running), "{state}");
        }
    }

    #[test]
    fn whatever_a_node_holds_can_be_lost_and_erased() {
        for state in Observed::ALL.iter().filter(|s| s.on_node()) {
            assert!(may_move(*state, Observed::Lost, Owner::Control), "{state}");
            assert!(may_move(*state, Observed::Gone, Owner::Node), "{state}");
        }
    }

    #[test]
    fn text_round_trip() {
        for state in Observed::ALL {
            assert_eq!(state.as_str().parse(), Ok(*state));
            assert_eq!(serde_json::to_string(state).ok(), Some(format!("\"{state}\"")));
        }
        assert!("zombie".parse::<Observed>().is_err());
    }
}
