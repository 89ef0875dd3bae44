//! `aether agent cp`, both ways, files and folders.

use super::{Context, agent_path};
use crate::args::CopyArgs;
use crate::client::{file_body, query, reader_body};
use crate::error::CliError;
use crate::output::raw;
use crate::tarball::{folder_body, unpack};
use http::{Method, Response, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::path::{Path, PathBuf};
use tokio::io::AsyncWriteExt;

const TAR: &str = "application/x-tar";

#[derive(Debug, PartialEq, Eq)]
enum Place {
    Agent {
        agent: String,
        path: String,
    },
    Local(PathBuf),
    /// Standard input or output, as a tar stream.
    Stream,
}

/// `AGENT:PATH`. A local path with a colon is written with a slash before it.
fn place(text: &str) -> Result<Place, CliError> {
    if text == "-" {
        return Ok(Place::Stream);
    }
    match text.split_once(':') {
        Some((agent, path)) if !agent.contains('/') && !agent.starts_with('.') => {
            if agent.is_empty() || path.is_empty() {
                return Err(CliError::usage(format!("{text:?}: write AGENT:PATH")));
            }
            // As with docker, a path without a slash begins at the root.
            let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
            Ok(Place::Agent { agent: agent.to_owned(), path })
        }
        _ if text.is_empty() => Err(CliError::usage("a path is empty")),
        _ => Ok(Place::Local(PathBuf::from(text))),
    }
}

pub(super) async fn copy(context: &Context, args: CopyArgs) -> Result<u8, CliError> {
    let user = args.user.clone();
    match (place(&args.source)?, place(&args.target)?) {
        (Place::Agent { agent, path }, Place::Local(target)) => download(context, &agent, &path, user, target).await,
        (Place::Agent { agent, path }, Place::Stream) => download_stream(context, &agent, &path, user).await,
        (Place::Local(source), Place::Agent { agent, path }) => upload(context, &source, &agent, &path, user).await,
        (Place::Stream, Place::Agent { agent, path }) => {
            let body = reader_body(tokio::io::stdin());
            put(context, &agent, &path, user, &[(header::CONTENT_TYPE, TAR)], body, None).await
        }
        _ => Err(CliError::usage("one side is AGENT:PATH, the other a local path or -")),
    }?;
    Ok(0)
}

fn files_path(agent: &str, path: &str, user: Option<String>, mode: Option<u32>) -> Result<String, CliError> {
    let parameters = [("path", Some(path.to_owned())), ("user", user), ("mode", mode.map(|m| format!("{m:04o}")))];
    agent_path(agent, &format!("/files{}", query(&parameters)))
}

async fn put(
    context: &Context,
    agent: &str,
    path: &str,
    user: Option<String>,
    headers: &[(http::HeaderName, &str)],
    body: crate::client::Body,
    mode: Option<u32>,
) -> Result<(), CliError> {
    let path = files_path(agent, path, user, mode)?;
    context.client.send(Method::PUT, &path, headers, body).await.map(drop)
}

/// As cp does: into the target when it is a folder or ends in a slash.
async fn upload(
    context: &Context,
    source: &Path,
    agent: &str,
    path: &str,
    user: Option<String>,
) -> Result<(), CliError> {
    use std::os::unix::fs::PermissionsExt;
    let cannot = |e: std::io::Error| CliError::failed(format!("cannot read {}: {e}", source.display()));
    let metadata = tokio::fs::metadata(source).await.map_err(cannot)?;
    let exists_as_folder =
        path.ends_with('/') || look(context, agent, path, user.clone()).await?.is_some_and(|r| r.folder);
    // `folder/.` means its content, as with cp and docker.
    let content_only = source.as_os_str().as_encoded_bytes().ends_with(b"/.") || source == Path::new(".");
    let target = if exists_as_folder && !content_only {
        let name = base_name(&source.canonicalize().map_err(cannot)?)?;
        format!("{}/{name}", path.trim_end_matches('/'))
    } else {
        path.to_owned()
    };
    if metadata.is_dir() {
        let body = folder_body(source);
        return put(context, agent, &target, user, &[(header::CONTENT_TYPE, TAR)], body, None).await;
    }
    let file = tokio::fs::File::open(source).await.map_err(cannot)?;
    let body = file_body(file, |_| {});
    let length = metadata.len().to_string();
    let mut headers = vec![(header::CONTENT_TYPE, "application/octet-stream")];
    // A pipe or device has no length to tell.
    if metadata.is_file() {
        headers.push((header::CONTENT_LENGTH, length.as_str()));
    }
    let mode = metadata.permissions().mode() & 0o777;
    put(context, agent, &target, user, &headers, body, Some(mode)).await
}

/// What a path in the agent is; none where nothing is there.
struct Remote {
    folder: bool,
    mode: Option<u32>,
}

async fn look(context: &Context, agent: &str, path: &str, user: Option<String>) -> Result<Option<Remote>, CliError> {
    let request = files_path(agent, path, user, None)?;
    match context.client.send_whole(Method::HEAD, &request, &[], &[]).await {
        Ok(response) => {
            let text = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok());
            let mode = text("x-aether-file-mode").and_then(|m| u32::from_str_radix(m, 8).ok());
            Ok(Some(Remote { folder: text("x-aether-file-kind") == Some("directory"), mode }))
        }
        Err(e) if e.is_not_found() => Ok(None),
        // A HEAD has no body to say what is wrong; the request that follows has.
        Err(CliError::Problem(_)) => Ok(None),
        Err(e) => Err(e),
    }
}

fn is_tar(response: &Response<Incoming>) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE);
    kind.is_some_and(|v| v.as_bytes().starts_with(TAR.as_bytes()))
}

fn base_name(path: &Path) -> Result<String, CliError> {
    let name = path.file_name().and_then(|n| n.to_str());
    name.map(str::to_owned).ok_or_else(|| CliError::failed(format!("{} has no name to copy it under", path.display())))
}

async fn download(
    context: &Context,
    agent: &str,
    path: &str,
    user: Option<String>,
    target: PathBuf,
) -> Result<(), CliError> {
    let remote = look(context, agent, path, user.clone()).await?;
    // A folder's content: here it may have another name.
    let folder = remote.as_ref().is_some_and(|r| r.folder);
    let asked = if folder { format!("{}/.", path.trim_end_matches('/')) } else { path.to_owned() };
    let request = files_path(agent, &asked, user, None)?;
    let response = context.client.send_whole(Method::GET, &request, &[], &[]).await?;
    let into = target.is_dir();
    let target = if into { target.join(remote_name(path)?) } else { target };
    if is_tar(&response) {
        let cannot = |e: std::io::Error| CliError::failed(format!("cannot create {}: {e}", target.display()));
        if !target.is_dir() {
            std::fs::create_dir(&target).map_err(cannot)?;
        }
        return unpack(response.into_body(), target).await;
    }
    save(response, &target, remote.and_then(|r| r.mode)).await
}

/// The last name in a path inside the agent: a file name here, so checked.
fn remote_name(path: &str) -> Result<String, CliError> {
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    match name {
        "" | "." | ".." => {
            Err(CliError::usage(format!("{path:?} has no name to copy it under: name the target in full")))
        }
        name => Ok(name.to_owned()),
    }
}

/// Writes beside the target and renames, so that a broken copy never looks
/// like a whole one. Devices and pipes are written as they are.
async fn save(response: Response<Incoming>, target: &Path, mode: Option<u32>) -> Result<(), CliError> {
    use std::os::unix::fs::OpenOptionsExt;
    let cannot = |e: std::io::Error| CliError::failed(format!("cannot write {}: {e}", target.display()));
    let in_place = std::fs::metadata(target).is_ok_and(|m| !m.is_file());
    let part = if in_place {
        target.to_owned()
    } else {
        let name = base_name(target)?;
        target.with_file_name(format!(".{name}.aether-{}", std::process::id()))
    };
    let mode = mode.unwrap_or(0o666) & 0o777;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).mode(mode);
    if !in_place {
        options.create(true).truncate(true);
    }
    let file = options.open(&part).map_err(cannot)?;
    let written = write_body(response, tokio::fs::File::from_std(file)).await;
    if in_place {
        return written;
    }
    match written.and_then(|()| std::fs::rename(&part, target).map_err(cannot)) {
        Ok(()) => Ok(()),
        Err(e) => {
            let _ = std::fs::remove_file(&part);
            Err(e)
        }
    }
}

async fn write_body(response: Response<Incoming>, mut file: tokio::fs::File) -> Result<(), CliError> {
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| CliError::failed(format!("the copy broke off: {e}")))?;
        if let Some(data) = frame.data_ref() {
            file.write_all(data).await.map_err(|e| CliError::failed(format!("cannot write: {e}")))?;
        }
    }
    file.flush().await.map_err(|e| CliError::failed(format!("cannot write: {e}")))
}

async fn download_stream(context: &Context, agent: &str, path: &str, user: Option<String>) -> Result<(), CliError> {
    use std::io::IsTerminal;
    if std::io::stdout().is_terminal() {
        return Err(CliError::usage("a tar stream does not belong on a terminal: redirect it"));
    }
    let request = files_path(agent, path, user, None)?;
    let response = context.client.send_whole(Method::GET, &request, &[(header::ACCEPT, TAR)], &[]).await?;
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| CliError::failed(format!("the copy broke off: {e}")))?;
        if let Some(data) = frame.data_ref() {
            raw(data)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let agent = |a: &str, p: &str| Place::Agent { agent: a.into(), path: p.into() };
        assert_eq!(place("my-agent:/etc/hosts").expect("agent"), agent("my-agent", "/etc/hosts"));
        assert_eq!(place("a:b:c").expect("agent"), agent("a", "/b:c"));
        assert_eq!(place("./a:b").expect("local"), Place::Local("./a:b".into()));
        assert_eq!(place("/a:b").expect("local"), Place::Local("/a:b".into()));
        assert_eq!(place("file").expect("local"), Place::Local("file".into()));
        assert_eq!(place("-").expect("stream"), Place::Stream);
        for bad in ["", ":x", "a:"] {
            assert!(place(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn remote_names_cannot_leave_the_target() {
        assert_eq!(remote_name("/etc/hosts").expect("name"), "hosts");
        assert_eq!(remote_name("dir/").expect("name"), "dir");
        for bad in ["/", "..", "/a/..", "."] {
            assert!(remote_name(bad).is_err(), "{bad}");
        }
    }
}
