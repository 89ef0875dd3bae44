//! Who may do what to whose things: counted test 24, and the keys of test 25.
//! Every operation of the OpenAPI document is asked for by everybody, with
//! the owner's ids in every place where an id can stand. What must come of it
//! is computed from [`table`] alone.
//!
//! Not here: what one permitted caller may do to its own things beyond not
//! being refused; nodes and guests.

mod ask;
mod elsewhere;
mod fields;
mod forged;
mod forged_tokens;
mod keys;
mod raw;
mod table;
mod tokens;
mod world;

use aether_core::Role;
use aether_counted::Counted;
use ask::{Answer, Ask, Place};
use futures::StreamExt;
use table::{Object, Row, TABLE};
use world::{ALIAS, Actor, MINE, NAME, Names, Standing, World, absent};

/// At the same time: the cases do not touch each other's things.
const AT_ONCE: usize = 8;
const LEAST: u64 = 2000;

/// What must come of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Unauthorized,
    Forbidden,
    /// As if the thing were not there.
    LikeAbsent,
    /// It says too much: 400, and nothing is done.
    Refused,
    /// Anything but a refusal.
    Allowed {
        on_owners: bool,
    },
}

#[derive(Clone)]
struct Case<'a> {
    row: &'a Row,
    actor: &'a Actor,
    place: Place,
    names: Names,
    /// The same kind of ids, of nothing.
    nothing: Names,
    expected: Expected,
}

fn expected(row: &Row, actor: &Actor, place: Place, has_body: bool) -> Expected {
    use Expected::{Allowed, Forbidden, LikeAbsent, Refused, Unauthorized};
    if row.object == Object::Open {
        return Allowed { on_owners: false };
    }
    let (tenant, role, scope) = match actor.standing {
        Standing::Nobody => return Unauthorized,
        Standing::Suspended => return Forbidden,
        Standing::Narrowed => return of_narrowed(row, place, has_body),
        Standing::Of { tenant, role, scope } => (tenant, role, scope),
    };
    let platform = role == Role::PlatformAdmin;
    let named_another = place == Place::TenantHeader && tenant != MINE;
    let narrow = |scope| scope == row.needs || row.needs == table::ANYTHING;
    let may = table::holds(role, row.needs) && scope.is_none_or(narrow);
    if !may || (named_another && !platform) {
        return Forbidden;
    }
    let owner = tenant == MINE || named_another;
    let foreign = match row.object {
        Object::Open | Object::Own | Object::Platform | Object::Tenant | Object::NewSecret => false,
        Object::Quota | Object::Label => !owner && !platform,
        Object::Agent | Object::Exec | Object::Image | Object::Source | Object::Agents => !owner,
        Object::Key | Object::Account | Object::Role | Object::User | Object::Secret => !owner,
    };
    let owners = Allowed { on_owners: owner || matches!(row.object, Object::Quota | Object::Label | Object::Tenant) };
    match (place, row.path) {
        (Place::Body, "/v1/agents") if has_body => {
            if owner {
                owners
            } else {
                Forbidden
            }
        }
        // The path's own tenant may be said again.
        (Place::Body, "/v1/quotas/{tenant_id}") if has_body => owners,
        (Place::Body, _) if has_body => Refused,
        _ if foreign => LikeAbsent,
        (Place::Query, _) => Refused,
        _ => owners,
    }
}

/// An admin's key of the owner's tenant that reaches neither the owner's agent
/// nor its image: the tenant is its own, the things are as another tenant's.
fn of_narrowed(row: &Row, place: Place, has_body: bool) -> Expected {
    use Expected::{Allowed, Forbidden, LikeAbsent, Refused};
    if !table::holds(Role::Admin, row.needs) || !table::narrowed_may(row.needs) {
        return Forbidden;
    }
    match (place, row.path) {
        // Its own tenant may be said.
        (Place::Body, "/v1/agents") if has_body => return Allowed { on_owners: false },
        (Place::Body, _) if has_body => return Refused,
        _ => {}
    }
    match row.object {
        Object::Agent | Object::Exec | Object::Agents | Object::Image => LikeAbsent,
        _ if place == Place::Query => Refused,
        // New names of images, out of its reach too.
        Object::Source => Forbidden,
        Object::Own if row.method == "POST" && row.path == "/v1/images" => Forbidden,
        _ => Allowed { on_owners: false },
    }
}

/// The ways to name what an operation is about, each with a name of nothing.
fn spellings(row: &Row, world: &World) -> Vec<(Names, Names)> {
    let (mine, nothing) = (&world.mine, absent());
    let agents = |id: &str, none: &str| {
        (Names { agent: id.into(), ..mine.clone() }, Names { agent: none.into(), ..nothing.clone() })
    };
    match row.object {
        Object::Agent | Object::Exec | Object::Agents => {
            vec![agents(&mine.agent, &nothing.agent), agents(NAME, "nobody-here"), agents(ALIAS, "nobody-here")]
        }
        Object::Image | Object::Source => {
            let none = format!("sha256:{}", "0".repeat(64));
            let digest = Names { image: world.digest.clone(), ..mine.clone() };
            vec![(mine.clone(), nothing.clone()), (digest, Names { image: none, ..nothing })]
        }
        _ => vec![(mine.clone(), nothing)],
    }
}

fn cases(world: &World) -> Vec<Case<'_>> {
    let mut cases = Vec::new();
    for row in TABLE {
        for (names, nothing) in spellings(row, world) {
            let has_body = Ask::of(row, &names, true, 0).body.is_some();
            for actor in &world.actors {
                for place in Place::ALL {
                    // Open routes take no notice of who asks.
                    if row.object == Object::Open && place == Place::Query {
                        continue;
                    }
                    let expected = expected(row, actor, place, has_body);
                    let (names, nothing) = (names.clone(), nothing.clone());
                    cases.push(Case { row, actor, place, names, nothing, expected });
                }
            }
        }
    }
    cases
}

impl Case<'_> {
    fn told(&self, what: &str) -> String {
        let Self { row, actor, place, names, expected, .. } = self;
        let id = if row.path.contains("image") { &names.image } else { &names.agent };
        format!("{} {} of {id} by {}, in {place:?}: {expected:?}, but {what}", row.method, row.path, actor.name)
    }

    /// None, or what is wrong.
    async fn judged(&self, world: &World) -> Option<String> {
        let gently = self.expected == Expected::Allowed { on_owners: true };
        let number = world.number();
        let ask = |names: &Names| Ask::of(self.row, names, gently, number).at(self.place, names);
        let ids = |names: &Names| {
            let Names { agent, exec, key, image, account, role, user, secret, .. } = names.clone();
            [agent, exec, key, image, account, role, user, secret]
        };
        let send = async |names: &Names| ask(names).send(world, self.actor, &ids(names)).await;
        let answer = match send(&self.names).await {
            Ok(answer) => answer,
            Err(error) => return Some(self.told(&error)),
        };
        let fine = match self.expected {
            Expected::Unauthorized => answer.status == 401,
            Expected::Forbidden => answer.status == 403,
            Expected::Refused => answer.status == 400,
            Expected::Allowed { .. } => {
                !matches!(answer.status, 401 | 403 | 404 | 500..) && !failed_inside(&self.row.object, &answer)
            }
            Expected::LikeAbsent => match send(&self.nothing).await {
                Ok(none) if none == answer => absent_like(&self.row.object, &answer),
                Ok(none) => return Some(self.told(&format!("{answer:?}, and of nothing {none:?}"))),
                Err(error) => return Some(self.told(&error)),
            },
        };
        (!fine).then(|| self.told(&format!("{answer:?}")))
    }

    /// Whether it destroys what others of its kind look at.
    fn shares(&self) -> bool {
        let one_file = self.row.method == "DELETE" && self.row.path.ends_with("/files");
        one_file || matches!(self.row.object, Object::Image | Object::Source)
    }

    /// What the case destroys is made for it.
    async fn with_own_things(mut self, world: &World) -> Self {
        let names = match (self.row.object, self.row.method, self.row.path) {
            (Object::Agents, ..) | (_, "DELETE", "/v1/agents/{id}") | (_, _, "/v1/agents/{id}/stop") => {
                world.fresh_agent().await
            }
            (Object::Key, ..) => world.fresh_key().await,
            (Object::Account, ..) => world.fresh_account().await,
            (Object::Role, ..) => world.fresh_role().await,
            (Object::Label, ..) => world.fresh_label().await,
            (Object::User, ..) => world.fresh_user().await,
            (Object::Secret, "DELETE", _) => world.fresh_secret().await,
            (Object::Tenant, "POST" | "PATCH" | "DELETE", _) => world.fresh_tenant().await,
            (_, "DELETE", "/v1/agents/{id}/files") => {
                world.fresh_file("/gone").await;
                return self;
            }
            (Object::Image | Object::Source, ..) => {
                world.pull().await;
                return self;
            }
            _ => return self,
        };
        self.names = names;
        self
    }
}

/// A bulk answer tells of each item by itself.
fn failed_inside(object: &Object, answer: &Answer) -> bool {
    *object == Object::Agents && !answer.body.contains("\"status\":204")
}

fn absent_like(object: &Object, answer: &Answer) -> bool {
    match (object, answer.status) {
        (_, 400 | 404) => true,
        (Object::Agents, 207) => answer.body.contains("\"status\":404"),
        _ => false,
    }
}

/// All wrong ones are told, then the test fails.
fn judge(counted: &mut Counted, wrong: &[String]) {
    // The panic that follows counts as one.
    counted.failures += wrong.len().saturating_sub(1) as u64;
    for one in wrong {
        println!("wrong: {one}");
    }
}

#[tokio::test]
async fn everybody_gets_what_is_theirs_and_nothing_else() {
    table::is_whole();
    let world = World::new().await;
    let mut counted = Counted::new("matrix", 24, "roles and ownership over all operations", 0);
    let (owners, mut others): (Vec<_>, Vec<_>) =
        cases(&world).into_iter().partition(|case| case.expected == Expected::Allowed { on_owners: true });
    // Where a stranger can delete what it may not, it reads it first.
    let order = ["GET", "HEAD", "PUT", "PATCH", "POST", "DELETE"];
    let rank = |row: &Row| order.iter().position(|method| *method == row.method);
    others.sort_by_key(|case| (case.row.object == Object::Agents, rank(case.row)));
    let before = world.state().await;
    let results = futures::stream::iter(others).map(async |case| case.judged(&world).await).buffer_unordered(AT_ONCE);
    let mut results: Vec<Option<String>> = results.collect().await;
    results.extend(elsewhere::judged(&world).await);
    for ((what, before), (_, after)) in before.into_iter().zip(world.state().await) {
        let changed = format!("strangers changed {what}: {before} became {after}");
        results.push((before != after).then_some(changed));
    }
    counted.tell("owners", owners.len());
    // What strangers broke, the owner would only miss.
    let owners = if results.iter().any(Option::is_some) { Vec::new() } else { owners };
    let (shared, single): (Vec<_>, Vec<_>) = owners.into_iter().partition(Case::shares);
    for (cases, at_once) in [(single, AT_ONCE), (shared, 1)] {
        let judged = async |case: Case<'_>| case.with_own_things(&world).await.judged(&world).await;
        results.extend(futures::stream::iter(cases).map(judged).buffer_unordered(at_once).collect::<Vec<_>>().await);
    }
    counted.n = results.len() as u64;
    let wrong: Vec<String> = results.into_iter().flatten().collect();
    judge(&mut counted, &wrong);
    assert!(counted.n >= LEAST, "only {} cases", counted.n);
    assert!(wrong.is_empty(), "{} of {} cases are wrong, the first: {}", wrong.len(), counted.n, wrong[0]);
}
