//! The local socket: root acts for the platform, members of the group
//! `aether` administer the tenant `default`, nobody else gets in (the file
//! mode keeps them out already; this is the second lock).

use nix::unistd::{Gid, Group, Uid, User};

/// Peer credentials as the kernel gave them at connect time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerUser {
    pub uid: u32,
    pub gid: u32,
}

/// What a local user is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalUser {
    Root,
    Group,
    Stranger,
}

const GROUP: &str = "aether";

impl LocalUser {
    /// Reads the group each time: a member who is removed is out at once.
    pub fn of(peer: &PeerUser) -> Self {
        let group = Group::from_name(GROUP).ok().flatten();
        let name = User::from_uid(Uid::from_raw(peer.uid)).ok().flatten().map(|u| u.name);
        Self::decide(peer, group.as_ref().map(|g| (g.gid, g.mem.as_slice())), name.as_deref())
    }

    fn decide(peer: &PeerUser, group: Option<(Gid, &[String])>, name: Option<&str>) -> Self {
        if peer.uid == 0 {
            return Self::Root;
        }
        match group {
            Some((gid, members))
                if gid.as_raw() == peer.gid || name.is_some_and(|n| members.iter().any(|m| m == n)) =>
            {
                Self::Group
            }
            _ => Self::Stranger,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_let_in() {
        let members = ["ann".to_owned()];
        let group = Some((Gid::from_raw(900), members.as_slice()));
        let who = |uid, gid, name| LocalUser::decide(&PeerUser { uid, gid }, group, name);
        assert_eq!(who(0, 0, Some("root")), LocalUser::Root);
        assert_eq!(who(1000, 1000, Some("ann")), LocalUser::Group);
        assert_eq!(who(1001, 900, Some("bob")), LocalUser::Group);
        assert_eq!(who(1001, 1001, Some("bob")), LocalUser::Stranger);
        assert_eq!(who(1001, 0, None), LocalUser::Stranger);
        assert_eq!(
            LocalUser::decide(&PeerUser { uid: 5, gid: 900 }, None, Some("ann")),
            LocalUser::Stranger,
            "no such group, no member"
        );
    }
}
