//! docs/configuration.md is written from the table of keys. Renew it with
//! `UPDATE_DOCS=1 cargo test -p aether docs`.

use super::super::keys::{ALIASES, GROUPS, KEYS, NOT_USED};
use std::fmt::Write as _;
use std::path::Path;

const HEAD: &str = "\
# Configuration

<!-- Written from crates/cli/src/config/keys.rs. Renew: UPDATE_DOCS=1 cargo test -p aether docs -->

Values come from defaults, then a file, then the environment, then flags; later ones win. `aether config show` prints
each value with its source, secrets masked.

- **File**: `--config FILE`, else the first of `config.yaml`, `config/config.yaml` and `/etc/aether/config.yaml`. YAML,
  a group per section, at most 1 MiB, owned by you or root and not writable for all. Unknown keys are errors that name
  the nearest known one.
- **Environment**: `AETHER_` and the key in capitals with `.` as `_`: `node.max_boots` is `AETHER_NODE_MAX_BOOTS`.
  Unknown names are warnings, since orchestrators inject some.
- **Flags**: `--set KEY=VALUE` on `server`, `migrate`, `doctor` and `config show`, and short forms such as `--address`.
- Durations are written as `15s`, `5m` or `1h30m`; lists with commas, in a file also as a YAML list.
";

#[test]
fn the_page_is_up_to_date() {
    let mut page = HEAD.to_owned();
    for (group, about) in GROUPS {
        writeln!(page, "\n## {group}\n\n{}\n\n| key | default | value | meaning |\n|---|---|---|---|", sentence(about))
            .expect("writes to a string");
        for key in KEYS.iter().filter(|k| k.name.split('.').next() == Some(group)) {
            let default = if key.default.is_empty() { String::new() } else { format!("`{}`", key.default) };
            writeln!(page, "| `{}` | {default} | {} | {} |", key.name, key.kind, sentence(key.doc))
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
