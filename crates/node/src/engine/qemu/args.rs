//! QEMU's command line: a pure function of what is booted. Nothing secret is
//! in it, since `ps` shows it to everyone on the host.

use super::super::DiskFormat;
use super::DiskRate;
use std::path::Path;

/// Descriptor numbers inside the jail.
pub(super) mod fd {
    pub(crate) const IMAGE: i32 = 10;
    pub(crate) const DISK: i32 = 11;
    pub(crate) const TAP: i32 = 12;
    pub(crate) const CONTROL: i32 = 13;
    pub(crate) const DATA: i32 = 14;
    pub(crate) const QMP: i32 = 15;
}

/// Paths inside the jail.
pub(super) const KERNEL: &str = "/kernel";
pub(super) const INITRAMFS: &str = "/initramfs";
pub(super) const FIRMWARE: &str = "/firmware";
pub(super) const TOKEN: &str = "/token";
pub(super) const DISK_KEY: &str = "/disk-key";

/// MiB of TCG's translation cache: half makes Python two to four times
/// slower, more gains nothing.
const TB_SIZE_MB: u32 = 128;

/// The emulated processor: all that TCG can do, but for "fast" byte-wise string
/// operations. A kernel that finds them copies and clears with `rep movsb` and
/// `rep stosb`, of which TCG emulates each byte as a turn of its own: without
/// them a boot takes a sixth less time, output passes twice as fast.
const EMULATED_CPU: &str = "max,-erms,-fsrm";

#[derive(Clone, Debug)]
pub(super) struct Machine<'a> {
    pub(super) kvm: bool,
    pub(super) vcpus: u32,
    pub(super) memory_mb: u64,
    /// For the kernel's timer under TCG, where nothing calibrates it.
    pub(super) tsc_khz: u64,
    pub(super) extra_kernel_args: &'a str,
    /// Absent in the probe.
    pub(super) devices: Option<Devices<'a>>,
}

#[derive(Clone, Debug)]
pub(super) struct Devices<'a> {
    pub(super) disk: &'a DiskFormat,
    pub(super) rate: DiskRate,
    pub(super) tap: bool,
    pub(super) mac: [u8; 6],
}

pub(super) fn render(machine: &Machine<'_>) -> Vec<String> {
    let mut args = Args(Vec::new());
    base(&mut args, machine);
    args.pair("-append", kernel_command_line(machine));
    if let Some(devices) = &machine.devices {
        drives(&mut args, devices);
        network(&mut args, devices);
        channel(&mut args);
    }
    args.0
}

struct Args(Vec<String>);

impl Args {
    fn flag(&mut self, name: &str) {
        self.0.push(name.to_string());
    }

    fn pair(&mut self, name: &str, value: impl Into<String>) {
        self.0.push(name.to_string());
        self.0.push(value.into());
    }
}

fn base(args: &mut Args, machine: &Machine<'_>) {
    args.flag("-nodefaults");
    args.flag("-no-user-config");
    // A panic or a reboot of the guest ends the VMM.
    args.flag("-no-reboot");
    args.pair("-display", "none");
    args.pair("-name", "sandbox,debug-threads=on");
    // ACPI is how a stock kernel finds virtio-mmio devices; no PIC and PIT, since nothing uses them.
    args.pair("-M", "microvm,acpi=on,pic=off,pit=off,rtc=on,isa-serial=on,auto-kernel-cmdline=off");
    let accel = if machine.kvm { "kvm".to_string() } else { format!("tcg,tb-size={TB_SIZE_MB}") };
    args.pair("-accel", accel);
    args.pair("-cpu", if machine.kvm { "host" } else { EMULATED_CPU });
    args.pair("-smp", machine.vcpus.to_string());
    args.pair("-m", format!("{}M", machine.memory_mb));
    args.pair("-L", FIRMWARE);
    args.pair("-kernel", KERNEL);
    args.pair("-initrd", INITRAMFS);
    // Bounded: stdout is a memory file that is sealed against growth.
    args.pair("-chardev", "stdio,id=serial,signal=off");
    args.pair("-serial", "chardev:serial");
    args.pair("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
}

/// One bucket for all disks of the sandbox, so that a second disk is no second share.
fn throttle(args: &mut Args, rate: DiskRate) {
    let mut group = String::from("throttle-group,id=share");
    if rate.mb_per_s > 0 {
        group.push_str(&format!(",x-bps-total={}", u64::from(rate.mb_per_s) << 20));
    }
    if rate.iops > 0 {
        group.push_str(&format!(",x-iops-total={}", rate.iops));
    }
    if rate != (DiskRate { mb_per_s: 0, iops: 0 }) {
        args.pair("-object", group);
    }
}

/// The node that the guest's device uses in place of this one.
fn limited(args: &mut Args, rate: DiskRate, node: &str, options: &str) -> String {
    if rate == (DiskRate { mb_per_s: 0, iops: 0 }) {
        return node.to_owned();
    }
    args.pair("-blockdev", format!("driver=throttle,throttle-group=share,file={node},node-name={node}-share{options}"));
    format!("{node}-share")
}

fn drives(args: &mut Args, devices: &Devices<'_>) {
    throttle(args, devices.rate);
    args.pair("-add-fd", format!("fd={},set=1,opaque=image", fd::IMAGE));
    args.pair("-add-fd", format!("fd={},set=2,opaque=disk", fd::DISK));
    // Shared by several sandboxes, so no lock.
    args.pair("-blockdev", "driver=file,filename=/dev/fdset/1,node-name=image,read-only=on,locking=off");
    let image = limited(args, devices.rate, "image", ",read-only=on");
    args.pair("-device", format!("virtio-blk-device,drive={image},serial=image"));
    let file = "driver=file,filename=/dev/fdset/2,node-name=disk-file,discard=unmap,locking=off";
    args.pair("-blockdev", file);
    match devices.disk {
        DiskFormat::Raw => {
            args.pair("-blockdev", "driver=raw,file=disk-file,node-name=disk,discard=unmap,detect-zeroes=unmap");
        }
        DiskFormat::Qcow2Luks { .. } => {
            args.pair("-object", format!("secret,id=disk-key,file={DISK_KEY},format=raw"));
            args.pair(
                "-blockdev",
                "driver=qcow2,file=disk-file,node-name=disk,discard=unmap,encrypt.format=luks,encrypt.key-secret=disk-key",
            );
        }
    }
    // A full host holds the guest (`qmp::keep_going` lets it go on); it is told of every other error.
    let disk = limited(args, devices.rate, "disk", ",discard=unmap");
    args.pair("-device", format!("virtio-blk-device,drive={disk},serial=disk,werror=enospc,rerror=report"));
}

fn network(args: &mut Args, devices: &Devices<'_>) {
    if !devices.tap {
        return;
    }
    let [a, b, c, d, e, f] = devices.mac;
    args.pair("-netdev", format!("tap,id=net,fd={},vhost=off", fd::TAP));
    args.pair("-device", format!("virtio-net-device,netdev=net,mac={a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"));
}

fn channel(args: &mut Args) {
    args.pair("-object", "rng-random,id=rng,filename=/dev/urandom");
    // 64 KiB a second: a guest cannot make the host spend its time on random bytes.
    args.pair("-device", "virtio-rng-device,rng=rng,max-bytes=65536,period=1000");
    args.pair("-device", "virtio-serial-device,max_ports=3");
    for (name, number, nr) in [("data", fd::DATA, 1), ("control", fd::CONTROL, 2)] {
        args.pair("-chardev", format!("socket,id={name},fd={number},server=on,wait=off"));
        args.pair("-device", format!("virtserialport,nr={nr},chardev={name},name=aether.{name}"));
    }
    args.pair("-fw_cfg", format!("name=opt/aether/token,file={TOKEN}"));
    args.pair("-chardev", format!("socket,id=qmp,fd={},server=on,wait=off", fd::QMP));
    args.pair("-mon", "chardev=qmp,mode=control");
}

fn kernel_command_line(machine: &Machine<'_>) -> String {
    // The probe reads the kernel's own words; a sandbox prints errors alone.
    let noise = if machine.devices.is_some() { "quiet loglevel=3" } else { "loglevel=7" };
    let mut words = vec!["console=ttyS0", noise, "panic=-1", "reboot=t", "pci=off", "random.trust_cpu=on"];
    // Modules whose policies nobody loads, the audit log, and the self-tests cost a fifth of a boot.
    words.extend(["lsm=landlock,yama", "audit=0", "cryptomgr.notests"]);
    let tsc = format!("tsc_early_khz={}", machine.tsc_khz);
    if !machine.kvm {
        words.extend([tsc.as_str(), "tsc=reliable", "no_timer_check"]);
    }
    if !machine.extra_kernel_args.is_empty() {
        words.push(machine.extra_kernel_args);
    }
    words.join(" ")
}

/// The host's TSC rate as the kernel reports it, in kHz.
pub(super) fn host_tsc_khz() -> u64 {
    let text = std::fs::read_to_string(Path::new("/proc/cpuinfo")).unwrap_or_default();
    // A plausible rate is better than none: under TCG the guest's TSC follows the host's clock.
    parse_mhz(&text).map_or(2_000_000, |mhz| (mhz * 1000.0).round() as u64)
}

fn parse_mhz(text: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.starts_with("cpu MHz"))?;
    let value: f64 = line.split(':').nth(1)?.trim().parse().ok()?;
    (100.0..=10_000.0).contains(&value).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine<'a>(kvm: bool, disk: &'a DiskFormat, tap: bool) -> Machine<'a> {
        let devices = Devices { disk, rate: DiskRate::default(), tap, mac: [2, 0, 0, 0, 0xab, 1] };
        Machine { kvm, vcpus: 2, memory_mb: 512, tsc_khz: 2_100_000, extra_kernel_args: "", devices: Some(devices) }
    }

    fn text(machine: &Machine<'_>) -> String {
        render(machine).join("\n").replace("\n-", "\n\n-").split("\n\n").map(|l| l.replace('\n', " ") + "\n").collect()
    }

    #[test]
    fn the_whole_line() {
        let expected = include_str!("snapshots/tcg-raw.txt");
        assert_eq!(text(&machine(false, &DiskFormat::Raw, true)), expected);
    }

    #[test]
    fn kvm_needs_no_help_with_its_clock() {
        let line = text(&machine(true, &DiskFormat::Raw, true));
        assert!(line.contains("-accel kvm\n-cpu host\n") && !line.contains("tsc_early_khz"), "{line}");
    }

    #[test]
    fn no_tap_no_network() {
        assert!(!text(&machine(false, &DiskFormat::Raw, false)).contains("net"));
    }

    #[test]
    fn no_rate_no_throttle() {
        let mut machine = machine(false, &DiskFormat::Raw, true);
        let mut rate = |mb_per_s, iops| {
            if let Some(devices) = &mut machine.devices {
                devices.rate = DiskRate { mb_per_s, iops };
            }
            text(&machine)
        };
        assert!(!rate(0, 0).contains("throttle"));
        let line = rate(0, 7);
        assert!(line.contains("throttle-group,id=share,x-iops-total=7\n") && !line.contains("bps"), "{line}");
    }

    #[test]
    fn the_disk_key_is_a_file() {
        let disk = DiskFormat::Qcow2Luks { key: zeroize::Zeroizing::new(b"0123456789".to_vec()) };
        let line = text(&machine(false, &disk, true));
        assert!(line.contains("encrypt.key-secret=disk-key") && line.contains("file=/disk-key"), "{line}");
        assert!(!line.contains("0123456789"));
    }

    #[test]
    fn reads_the_host_rate() {
        assert_eq!(parse_mhz("model name\t: x\ncpu MHz\t\t: 2100.000\n"), Some(2100.0));
        assert_eq!(parse_mhz("cpu MHz\t\t: 0.000\n"), None);
        assert_eq!(parse_mhz("nothing"), None);
    }
}
