//! docs/configuration.md is written from the table of keys. Renew it with
//! `UPDATE_DOCS=1 cargo test -p aether docs`.

use super::super::keys::{ALIASES, GROUPS, KEYS, NOT_USED};
use std::fmt::Write as _;
use std::path::Path;

const HEAD: &str = "\
# Configuration

<!-- Written from crates/cli/src/config/keys.rs. Renew: UPDATE_DOCS=1 cargo test -p aether docs -->

Every key has a built-in default and can be set in three more places. In this order, later ones win:

1. the default,
2. the file,
3. the environment,
4. the command line; there a later `--set` wins over an earlier one, and a short form such as `--address` over `--set`.

`aether config show` prints each value with its source, secrets masked; with `-o json` also kind, limits, and what a
reload does. What is wrong is refused before anything is opened, all of it at once, each with key, value, limit and
source.

- **File**: `--config FILE`, else the first of `config.yaml`, `config/config.yaml` and `/etc/aether/config.yaml`. YAML,
  a group per section, at most 1 MiB, owned by you or root and not writable for all.
- **Environment**: `AETHER_` and the key in capitals with `.` as `_`: `node.max_boots` is `AETHER_NODE_MAX_BOOTS`.
  Unknown names are warnings, since orchestrators inject some.
- **Flags**: `--set KEY=VALUE` on `server`, `migrate`, `doctor` and `config show`, and short forms such as `--address`.
- An unknown key in the file or on the command line is an error that names the nearest known one; so is a key that
  stands twice in the file.
- Durations are written as `15s`, `5m` or `1h30m`; lists with commas, in a file also as a YAML list.

## Reload

On SIGHUP (`systemctl reload aether`) the server reads the same file again, with the environment and the flags of its
start. Keys with `live` in the column *reload* are taken: connections, requests, boots and pulls that begin from then on
go by the new values, those under way end by the old ones; a smaller number of connections ends none. Certificate and
key are read anew even where their paths are the same. Keys with `restart` that changed are named in a warning, and wait
for the next start. A file that is gone, not valid, or does not fit the values that wait changes nothing: the log says
`the configuration was not reloaded, the running one stays`, with every reason.

## What shows that no key is for show

- Every key is set by file, environment and flag, and `aether config show` must tell value and source of each; so in the
  built binary, with all keys at once (`cargo test -p aether --test it every_key`).
- Every key, set alone, must change the options that some part of the server is started with, and every field of those
  options must be read by that part's code (`cargo test -p aether wired`). The first is run, the second is a search of
  the sources by name: it sees a field that nobody reads, not one that is read and then not obeyed. That limits are
  obeyed is for the tests of each part.
- Every key must be taken by a reload or wait, as its row says (`cargo test -p aether reload`), and a running server is
  reloaded with good and bad files (`cargo test -p aether --test it reload`).
- `make planted PLANTED=config-` breaks it in ways that these tests must see.
";

#[test]
fn the_page_is_up_to_date() {
    let mut page = HEAD.to_owned();
    for (group, about) in GROUPS {
        writeln!(
            page,
            "\n## {group}\n\n{}\n\n| key | default | value | reload | meaning |\n|---|---|---|---|---|",
            sentence(about)
        )
        .expect("writes to a string");
        for key in KEYS.iter().filter(|k| k.name.split('.').next() == Some(group)) {
            let default = if key.default.is_empty() { String::new() } else { format!("`{}`", key.default) };
            let limits = key.limits.map(|(least, most)| format!(", {least} to {most}")).unwrap_or_default();
            let (kind, reload) = (key.kind, key.reload.as_str());
            writeln!(page, "| `{}` | {default} | {kind}{limits} | {reload} | {} |", key.name, sentence(key.doc))
                .expect("writes to a string");
        }
    }
    page.push_str("\n## Other names in the environment\n\n| name | key |\n|---|---|\n");
    for (name, key) in ALIASES {
        writeln!(page, "| `{name}` | `{key}` |").expect("writes to a string");
    }
    page.push_str(
        "\nWhere both are set, the `AETHER_` form of the key wins, and a warning says so. The commands also read \
         `AETHER_SERVER`,\n`AETHER_TOKEN` (or `AETHER_API_KEY`) and `AETHER_REGISTRY_PASSWORD`.\n\n\
         ## Keys that this version does not use\n\nThe earlier version had them. They are accepted with a warning, so \
         that its files can still be read:\n\n",
    );
    for key in NOT_USED {
        writeln!(page, "- `{key}`").expect("writes to a string");
    }
    crate::golden::compare(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md"), &page);
}

fn sentence(lines: &[&str]) -> String {
    lines.iter().map(|l| l.trim()).collect::<Vec<_>>().join(" ").replace('|', "\\|")
}
