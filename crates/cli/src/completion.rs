//! Completion scripts.

use crate::args::{Cli, Shell};
use crate::error::CliError;
use clap::CommandFactory;
use clap_complete::{Shell as Target, generate};

pub(crate) fn print(shell: Shell) -> Result<u8, CliError> {
    let target = match shell {
        Shell::Bash => Target::Bash,
        Shell::Zsh => Target::Zsh,
        Shell::Fish => Target::Fish,
        Shell::PowerShell => Target::PowerShell,
    };
    let mut script = Vec::new();
    generate(target, &mut Cli::command(), "aether", &mut script);
    crate::output::raw(&script).map(|()| 0)
}
