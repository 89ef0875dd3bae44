//! `aether image …`.

use super::housekeeping::{ImagePruneArgs, TagArgs};
use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Pull an image from a registry
    Pull(PullArgs),
    /// Import an image from a folder, a file or standard input
    Import(ImportArgs),
    /// List images
    #[command(visible_alias = "ls")]
    List,
    /// Show one image in full
    #[command(visible_alias = "get")]
    Inspect {
        /// Name or digest
        image: String,
    },
    /// Give an image another name
    Tag(TagArgs),
    /// Remove the images that no agent uses
    Prune(ImagePruneArgs),
    /// Remove images; those in use are refused
    #[command(visible_alias = "remove")]
    Rm {
        /// Names or digests
        #[arg(required = true)]
        images: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// As in python:3.11 or registry.example.com/team/tool:v1
    pub(crate) reference: String,
    /// Take the image for this platform, as in linux/amd64
    #[arg(long)]
    pub(crate) platform: Option<String>,
    /// Speak plain HTTP; only loopback registries unless the operator allows more
    #[arg(long)]
    pub(crate) insecure: bool,
    /// The user at the registry; the password is read from AETHER_REGISTRY_PASSWORD or asked on the terminal
    #[arg(long)]
    pub(crate) username: Option<String>,
    /// Read the password from standard input
    #[arg(long, requires = "username")]
    pub(crate) password_stdin: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// An OCI layout folder, an OCI or docker archive (also gzip or zstd), or `-`
    pub(crate) source: String,
    /// The name to give it; else the one in the archive
    #[arg(long, short = 'n', value_name = "NAME")]
    pub(crate) name: Option<String>,
}
