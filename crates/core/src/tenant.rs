//! Tenants: their tiers, what each may have, and what an agent takes of it.
//!
//! Pure: amounts in, amounts or a refusal out. The store counts, in the
//! transaction that changes what is counted. Not here: how fast a tenant may
//! ask.

use crate::id::KeyId;
use crate::spec::Resources;
use crate::state::Observed;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown {0}")]
pub struct UnknownWord(&'static str);

macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $what:literal: $($(#[$variant_doc:meta])* $variant:ident = $text:literal),+ $(,)?) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }

        impl $name {
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = UnknownWord;
            fn from_str(text: &str) -> Result<Self, UnknownWord> {
                Self::ALL.iter().copied().find(|word| word.as_str() == text).ok_or(UnknownWord($what))
            }
        }
    };
}

words! {
    /// What a tenant gets unless its limits are set one by one.
    Tier, "tier":
    Free = "free",
    Pro = "pro",
    Enterprise = "enterprise",
    /// Limited by the nodes alone; the embedded `default` tenant's.
    Unlimited = "unlimited",
}

words! {
    /// Whether a tenant may work.
    TenantStatus, "tenant status":
    Active = "active",
    /// Nothing new begins; what runs goes on.
    Suspended = "suspended",
    /// Its agents are being ended; then all that is its own is erased.
    Deleting = "deleting",
    /// Nothing is left but its audit records; its id is nobody else's ever.
    Erased = "erased",
}

/// The most that a tenant may have; `None`: no limit but the nodes'.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    pub agents: Option<u64>,
    pub cpu_millicores: Option<u64>,
    pub memory_mb: Option<u64>,
    pub disk_mb: Option<u64>,
    /// Of all its agents together.
    pub network_mbps: Option<u64>,
    pub requests_per_minute: Option<u64>,
    /// Names apart: images as such.
    pub images: Option<u64>,
    /// At one time, in all of its agents.
    pub exec_sessions: Option<u64>,
}

impl Tier {
    /// surface.md §4: the numbers that users of the earlier version know; those
    /// of images and execs, which it did not count, are ours.
    pub fn limits(self) -> Limits {
        let of = |agents, cpu_millicores, memory_mb, disk_mb, requests_per_minute, images, exec_sessions| Limits {
            agents: Some(agents),
            cpu_millicores: Some(cpu_millicores),
            memory_mb: Some(memory_mb),
            disk_mb: Some(disk_mb),
            network_mbps: Some(1000),
            requests_per_minute: Some(requests_per_minute),
            images: Some(images),
            exec_sessions: Some(exec_sessions),
        };
        match self {
            Tier::Free => of(5, 5_000, 8_192, 51_200, 600, 20, 20),
            Tier::Pro => of(50, 50_000, 102_400, 512_000, 6_000, 200, 200),
            Tier::Enterprise => of(500, 500_000, 1_048_576, 5_120_000, 60_000, 2_000, 2_000),
            Tier::Unlimited => Limits::default(),
        }
    }
}

/// What is held of a tenant's quota, by one agent or by all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    pub agents: u64,
    pub cpu_millicores: u64,
    pub memory_mb: u64,
    pub disk_mb: u64,
}

/// What a run was begun with, where its agent was made another size since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunSize {
    pub cpu_millicores: u64,
    pub memory_mb: u64,
}

impl RunSize {
    pub fn of(resources: Resources) -> Self {
        let r = resources.with_defaults();
        Self { cpu_millicores: r.cpu_millicores(), memory_mb: r.memory_mb }
    }
}

impl Held {
    /// What an agent in this state holds. One that ended keeps its disk, and
    /// its place among the agents; one that is gone holds nothing, and only its
    /// node's word makes it so. One that runs holds what it began with, or what
    /// it will begin with next, whichever is more.
    pub fn by(observed: Observed, resources: Resources, run: Option<RunSize>) -> Self {
        let r = resources.with_defaults();
        match observed {
            Observed::Gone => Self::default(),
            Observed::Stopped | Observed::Failed => Self { agents: 1, disk_mb: r.disk_mb, ..Self::default() },
            _ => {
                let (next, run) = (RunSize::of(r), run.unwrap_or(RunSize::of(r)));
                Self {
                    agents: 1,
                    cpu_millicores: next.cpu_millicores.max(run.cpu_millicores),
                    memory_mb: next.memory_mb.max(run.memory_mb),
                    disk_mb: r.disk_mb,
                }
            }
        }
    }

    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            agents: self.agents.saturating_add(other.agents),
            cpu_millicores: self.cpu_millicores.saturating_add(other.cpu_millicores),
            memory_mb: self.memory_mb.saturating_add(other.memory_mb),
            disk_mb: self.disk_mb.saturating_add(other.disk_mb),
        }
    }

    /// Each amount with its name, in the order in which refusals name them.
    pub fn amounts(self) -> [(Resource, u64); 4] {
        [
            (Resource::Agents, self.agents),
            (Resource::Cpu, self.cpu_millicores),
            (Resource::Memory, self.memory_mb),
            (Resource::Disk, self.disk_mb),
        ]
    }
}

impl Limits {
    /// Of the amounts of [`Held::amounts`], in their order.
    pub fn amounts(self) -> [Option<u64>; 4] {
        [self.agents, self.cpu_millicores, self.memory_mb, self.disk_mb]
    }

    /// Whether what agents hold must be counted.
    pub fn counted(self) -> bool {
        self.amounts().iter().any(Option::is_some)
    }

    /// The first amount that would pass its limit when a tenant that holds
    /// `used` changes one agent from `before` to `after`; before others one
    /// that could not fit even alone. What does not grow is never refused,
    /// whatever the limit has become.
    pub fn excess(self, used: Held, before: Held, after: Held) -> Option<Excess> {
        let all = used.amounts().into_iter().zip(before.amounts()).zip(after.amounts()).zip(self.amounts());
        let passed = all.filter_map(|((((resource, used), (_, before)), (_, after)), limit)| {
            let (asked, limit) = (after.saturating_sub(before), limit?);
            (asked > 0 && used.saturating_add(asked) > limit).then_some(Excess { resource, used, asked, limit })
        });
        passed.min_by_key(|excess| excess.could_fit())
    }
}

words! {
    /// What quotas count.
    Resource, "resource":
    Agents = "agents",
    Cpu = "cpu",
    Memory = "memory",
    Disk = "disk",
    Images = "images",
    ExecSessions = "exec_sessions",
}

impl Resource {
    pub fn unit(self) -> &'static str {
        match self {
            Resource::Agents => "agents",
            Resource::Cpu => "millicores",
            Resource::Memory => "MB of memory",
            Resource::Disk => "MB of disk",
            Resource::Images => "images",
            Resource::ExecSessions => "exec sessions",
        }
    }
}

/// A part of a tenant that has limits of its own, under the tenant's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BudgetOf {
    /// The agents that this key made.
    Key(KeyId),
    /// The agents that carry this label now.
    Label { key: String, value: String },
}

impl BudgetOf {
    /// From `key=value`.
    pub fn label(pair: &str) -> Option<Self> {
        let (key, value) = pair.split_once('=').filter(|(key, _)| !key.is_empty())?;
        Some(Self::Label { key: key.to_owned(), value: value.to_owned() })
    }
}

/// As it is stored; also the order in which budgets are locked.
impl fmt::Display for BudgetOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BudgetOf::Key(id) => write!(f, "key:{id}"),
            BudgetOf::Label { key, value } => write!(f, "label:{key}={value}"),
        }
    }
}

impl FromStr for BudgetOf {
    type Err = UnknownWord;
    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        let unknown = || UnknownWord("budget");
        match text.split_once(':').ok_or_else(unknown)? {
            ("key", id) => id.parse().map(Self::Key).map_err(|_| unknown()),
            ("label", pair) => Self::label(pair).ok_or_else(unknown),
            _ => Err(unknown()),
        }
    }
}

/// Why a quota refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Excess {
    pub resource: Resource,
    pub used: u64,
    pub asked: u64,
    pub limit: u64,
}

impl Excess {
    /// Whether freeing something would help.
    pub fn could_fit(self) -> bool {
        self.asked <= self.limit
    }
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { resource, used, asked, limit } = self;
        write!(f, "{used} of {limit} {} are in use and this asks for {asked} more", resource.unit())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn resources(cpu_count: u32, memory_mb: u64, disk_mb: u64) -> Resources {
        Resources { cpu_count, memory_mb, disk_mb }
    }

    #[test]
    fn words_round_trip() {
        for tier in Tier::ALL {
            assert_eq!(tier.as_str().parse(), Ok(*tier));
        }
        for status in TenantStatus::ALL {
            assert_eq!(status.as_str().parse(), Ok(*status));
        }
        assert!("Free".parse::<Tier>().is_err() && "".parse::<Tier>().is_err());
    }

    #[test]
    fn budgets_round_trip() {
        for text in ["key:keyc0aaaaaaaaaaaaaaaa", "label:team=a", "label:a=b=c", "label:empty=", "label:a:b=c"] {
            assert_eq!(text.parse::<BudgetOf>().expect("a budget").to_string(), text);
        }
        for bad in ["", "key:", "key:x", "label:", "label:=a", "label:a", "team=a", "tenant:a"] {
            assert!(bad.parse::<BudgetOf>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_each_state_holds() {
        let of = |observed| Held::by(observed, resources(2, 512, 0), None);
        let all = Held { agents: 1, cpu_millicores: 2000, memory_mb: 512, disk_mb: 10240 };
        for observed in Observed::ALL {
            let held = match observed {
                Observed::Gone => Held::default(),
                Observed::Stopped | Observed::Failed => Held { cpu_millicores: 0, memory_mb: 0, ..all },
                _ => all,
            };
            assert_eq!(of(*observed), held, "{observed}");
        }
    }

    #[test]
    fn a_refusal_says_what_is_used_asked_and_allowed() {
        let limits = Tier::Free.limits();
        let used = Held { agents: 5, cpu_millicores: 5000, memory_mb: 2560, disk_mb: 51_200 };
        let one = Held::by(Observed::Pending, resources(1, 512, 10_240), None);
        let excess = limits.excess(used, Held::default(), one).expect("is too much");
        assert_eq!(excess.to_string(), "5 of 5 agents are in use and this asks for 1 more");
        assert!(excess.could_fit());
        let large = Held::by(Observed::Pending, resources(6, 512, 10_240), None);
        let began = Some(RunSize { cpu_millicores: 9000, memory_mb: 1 });
        let smaller = Held::by(Observed::Running, resources(6, 512, 0), began);
        assert_eq!((smaller.cpu_millicores, smaller.memory_mb), (9000, 512), "whichever is more");
        let excess = limits.excess(Held::default(), Held::default(), large).expect("is too much");
        assert_eq!((excess.resource, excess.could_fit()), (Resource::Cpu, false));
        let both = limits.excess(used, Held::default(), large).expect("is too much");
        assert_eq!(both.resource, Resource::Cpu, "that it can never fit is told first");
        assert_eq!(Tier::Unlimited.limits().excess(used, Held::default(), large), None);
    }

    proptest! {
        /// Whoever shrinks, or stays, is never refused; whoever is not refused
        /// stays within every limit that it grew towards.
        #[test]
        fn limits_hold_for_what_grows(
            used in prop::array::uniform4(0u64..200),
            before in prop::array::uniform4(0u64..50),
            after in prop::array::uniform4(0u64..50),
            limit in prop::array::uniform4(prop::option::of(0u64..200)),
        ) {
            let held = |a: [u64; 4]| Held { agents: a[0], cpu_millicores: a[1], memory_mb: a[2], disk_mb: a[3] };
            let limits = Limits {
                agents: limit[0], cpu_millicores: limit[1], memory_mb: limit[2], disk_mb: limit[3], ..Limits::default()
            };
            let excess = limits.excess(held(used), held(before), held(after));
            let fits = |i: usize| after[i] <= before[i] || limit[i].is_none_or(|l| used[i] + after[i] - before[i] <= l);
            prop_assert_eq!(excess.is_none(), (0..4).all(fits));
        }
    }
}
