//! Reading a layer's tar, member by member.
//!
//! The `tar` crate reads the names in a header; its numbers and the walk over
//! blocks are ours, because what a size means must not be in doubt: that crate
//! cuts numbers above 64 bits and takes signs, its PAX reader splits at
//! newlines, which extended attributes may hold, and it holds long names of
//! any length in memory.

use super::error::{ConvertError, show};
use super::number::number;
use super::pax::{self, PaxFacts};
use std::io::{self, Read};
use std::ops::Range;
use tar::{EntryType, Header};

const BLOCK: usize = 512;
const MODE: Range<usize> = 100..108;
const UID: Range<usize> = 108..116;
const GID: Range<usize> = 116..124;
const SIZE: Range<usize> = 124..136;
const MTIME: Range<usize> = 136..148;
const CHECKSUM: Range<usize> = 148..156;
const KIND: usize = 156;
const MAJOR: Range<usize> = 329..337;
const MINOR: Range<usize> = 337..345;
/// Long names, links and PAX records of one member.
const MAX_EXTENSION: u64 = 1 << 20;
pub(crate) const MAX_PATH: usize = 4095;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Dir,
    Symlink(Vec<u8>),
    /// A hard link to this path.
    Link(Vec<u8>),
    Char(u32, u32),
    Block(u32, u32),
    Fifo,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Meta {
    /// Permission bits with setuid, setgid, sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: u32,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// As written in the archive.
    pub path: Vec<u8>,
    pub kind: Kind,
    pub meta: Meta,
    /// Of the body; 0 for all but files.
    pub size: u64,
}

pub(crate) struct Members<R> {
    input: R,
    /// Body bytes of the current member not yet read.
    left: u64,
    padding: u64,
}

impl<R: Read> Members<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, left: 0, padding: 0 }
    }

    /// The next member; whatever was not read of the last one is skipped.
    pub(crate) fn next(&mut self) -> Result<Option<Member>, ConvertError> {
        let mut extra = Extensions::default();
        loop {
            self.skip_body()?;
            let Some(header) = self.header()? else {
                if extra.is_empty() {
                    return Ok(None);
                }
                return Err(ConvertError::invalid("the layer ends after an extension header"));
            };
            let size = field(&header, SIZE, "size")?;
            match header.entry_type() {
                EntryType::XHeader => extra.set_pax(&self.extension(size)?)?,
                EntryType::GNULongName => Extensions::set_once(&mut extra.name, self.extension(size)?)?,
                EntryType::GNULongLink => Extensions::set_once(&mut extra.link, self.extension(size)?)?,
                // Global records carry comments; tools that make images do
                // not use them for members.
                EntryType::XGlobalHeader => drop(self.extension(size)?),
                _ => return self.member(&header, size, extra).map(Some),
            }
        }
    }

    fn member(&mut self, header: &Header, size: u64, extra: Extensions) -> Result<Member, ConvertError> {
        let pax = extra.pax.unwrap_or_default();
        let path = pax.path.or(extra.name).unwrap_or_else(|| header.path_bytes().into_owned());
        let link = pax.link.or(extra.link).or_else(|| header.link_name_bytes().map(|l| l.into_owned()));
        check_name(&path)?;
        let kind = kind(header, &path, link)?;
        // Members without a body have none, whatever their size field says:
        // so read the tools that make and unpack images.
        let size = if kind == Kind::File { pax.size.unwrap_or(size) } else { 0 };
        self.left = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
        let meta = Meta {
            mode: (field(header, MODE, "mode")? & 0o7777) as u32,
            uid: id("uid", pax.uid, header, UID)?,
            gid: id("gid", pax.gid, header, GID)?,
            mtime: mtime(pax.mtime, header),
            xattrs: pax.xattrs,
        };
        Ok(Member { path, kind, meta, size })
    }

    /// The rest of the current member's body.
    pub(crate) fn body(&mut self) -> Body<'_, R> {
        Body { members: self }
    }

    fn skip_body(&mut self) -> Result<(), ConvertError> {
        let rest = self.left.checked_add(self.padding).ok_or_else(|| ConvertError::invalid("a size overflows"))?;
        (self.left, self.padding) = (0, 0);
        let skipped = io::copy(&mut (&mut self.input).take(rest), &mut io::sink())?;
        if skipped < rest { Err(truncated()) } else { Ok(()) }
    }

    /// None at the end marker, or at a clean end of the data.
    fn header(&mut self) -> Result<Option<Header>, ConvertError> {
        let mut block = [0u8; BLOCK];
        let mut have = 0;
        while have < BLOCK {
            match self.input.read(&mut block[have..]) {
                Ok(0) if have == 0 => return Ok(None),
                Ok(0) => return Err(truncated()),
                Ok(n) => have += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        if block.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        let header = Header::from_byte_slice(&block).clone();
        let sum = block[..148].iter().chain(&block[156..]).map(|b| u32::from(*b)).sum::<u32>() + 8 * 32;
        if number(&block[CHECKSUM]) != Some(u64::from(sum)) {
            return Err(ConvertError::invalid("a tar header has a wrong checksum"));
        }
        Ok(Some(header))
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>, ConvertError> {
        if size > MAX_EXTENSION {
            return Err(ConvertError::TooLarge { what: "an extension header".into(), limit: MAX_EXTENSION });
        }
        let mut body = vec![0; size as usize];
        self.input.read_exact(&mut body).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => truncated(),
            _ => e.into(),
        })?;
        self.padding = size.wrapping_neg() % BLOCK as u64;
        Ok(body)
    }
}

/// Reads exactly the body; an early end of the layer is an error.
pub(crate) struct Body<'a, R> {
    members: &'a mut Members<R>,
}

impl<R: Read> Read for Body<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let want = self.members.left.min(buf.len() as u64) as usize;
        if want == 0 {
            return Ok(0);
        }
        let n = self.members.input.read(&mut buf[..want])?;
        if n == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the layer ends in the middle of a file"));
        }
        self.members.left -= n as u64;
        Ok(n)
    }
}

#[derive(Default)]
struct Extensions {
    pax: Option<PaxFacts>,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl Extensions {
    fn is_empty(&self) -> bool {
        self.pax.is_none() && self.name.is_none() && self.link.is_none()
    }

    fn set_pax(&mut self, body: &[u8]) -> Result<(), ConvertError> {
        if self.pax.is_some() {
            return Err(ConvertError::invalid("two PAX headers describe one member"));
        }
        self.pax = Some(pax::parse(body)?);
        Ok(())
    }

    /// GNU's long names end with a NUL.
    fn set_once(slot: &mut Option<Vec<u8>>, mut body: Vec<u8>) -> Result<(), ConvertError> {
        if slot.is_some() {
            return Err(ConvertError::invalid("two long names describe one member"));
        }
        if body.last() == Some(&0) {
            body.pop();
        }
        *slot = Some(body);
        Ok(())
    }
}

fn kind(header: &Header, path: &[u8], link: Option<Vec<u8>>) -> Result<Kind, ConvertError> {
    let target = |link: Option<Vec<u8>>| {
        let link = link
            .filter(|l| !l.is_empty())
            .ok_or_else(|| ConvertError::invalid(format!("the link {} has no target", show(path))))?;
        check_name(&link)?;
        Ok::<_, ConvertError>(link)
    };
    let device = || -> Result<(u32, u32), ConvertError> {
        let major = field(header, MAJOR, "device number")?;
        let minor = field(header, MINOR, "device number")?;
        if major > 0xfff || minor > 0xf_ffff {
            return Err(ConvertError::invalid(format!("{} has an impossible device number", show(path))));
        }
        Ok((major as u32, minor as u32))
    };
    // The byte itself: the crate's type has the oldest one for a file.
    Ok(match header.as_bytes()[KIND] {
        b'\0' if path.ends_with(b"/") => Kind::Dir,
        b'\0' | b'0' | b'7' => Kind::File,
        b'1' => Kind::Link(target(link)?),
        b'2' => Kind::Symlink(target(link)?),
        b'3' => device().map(|(major, minor)| Kind::Char(major, minor))?,
        b'4' => device().map(|(major, minor)| Kind::Block(major, minor))?,
        b'5' => Kind::Dir,
        b'6' => Kind::Fifo,
        b'S' => return Err(ConvertError::invalid("sparse files in layers are not supported")),
        other => {
            return Err(ConvertError::invalid(format!("{} is of the unknown tar type {other:#x}", show(path))));
        }
    })
}

fn check_name(name: &[u8]) -> Result<(), ConvertError> {
    if name.is_empty() || name.len() > MAX_PATH || name.contains(&0) {
        return Err(ConvertError::invalid(format!("a name is empty, too long or holds a NUL: {}", show(name))));
    }
    Ok(())
}

fn field(header: &Header, at: Range<usize>, what: &str) -> Result<u64, ConvertError> {
    number(&header.as_bytes()[at])
        .ok_or_else(|| ConvertError::invalid(format!("a tar header's {what} is not a number that can be")))
}

fn id(what: &str, pax: Option<u64>, header: &Header, at: Range<usize>) -> Result<u32, ConvertError> {
    let value = match pax {
        Some(value) => value,
        None => field(header, at, what)?,
    };
    u32::try_from(value).map_err(|_| ConvertError::invalid(format!("a {what} is too large")))
}

/// The filesystem keeps 32 bits. A nonsensical time is no reason to refuse;
/// one before 1970 counts as 1970.
fn mtime(pax: Option<u64>, header: &Header) -> u32 {
    let value = pax.or_else(|| number(&header.as_bytes()[MTIME])).unwrap_or(0);
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn truncated() -> ConvertError {
    ConvertError::invalid("the layer is truncated")
}
