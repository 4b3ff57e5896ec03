//! Brings the program onto the interface, or finds it there.
//!
//! Where things are pinned: `<directory>/v<ABI>/<interface>/`, a file per map and `link`. A process that starts finds the maps
//! with what they hold, and the link with the program running. If that is another program than ours, the link is told
//! to run ours from one frame to the next. A link under another ABI version is taken over the same way.

use super::flows::FlowIndex;
use super::{Plain, TAP_OBJECT, TapControl};
use crate::CaptureError;
use crate::clock::monotonic_ns;
use crate::interface::Interface;
use crate::port::Mirror;
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, XskMap};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::XdpMode;
use aya::programs::{ProgramInfo, Xdp, loaded_programs};
use aya::{Ebpf, EbpfLoader};
use sidetone_tap_abi as abi;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// `BPF_FS_MAGIC` (statfs(2)).
const BPF_FS_MAGIC: i64 = 0xCAFE_4A11;
const MAPS: [&str; 5] = [abi::MAP_SOCKETS, abi::MAP_FLOWS, abi::MAP_PORTS, abi::MAP_SETTINGS, abi::MAP_COUNTERS];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AttachMode {
    Native,
    Generic,
}

/// The program runs; its socket map is to be filled.
pub(crate) struct Attached {
    pub(crate) control: TapControl,
    pub(crate) mode: AttachMode,
    /// A program from before was found running.
    pub(crate) was_running: bool,
    sockets: XskMap<MapData>,
}

impl Attached {
    /// Frames of the queue go to the socket from now on, until it is closed.
    pub(crate) fn set_socket(&mut self, queue: u32, socket: impl AsRawFd) -> Result<(), CaptureError> {
        self.sockets
            .set(queue, socket, 0)
            .map_err(|error| CaptureError::tap(&self.control.interface, "enter a socket into the socket map", error))
    }
}

/// Loads the program, and attaches it unless it already runs.
pub(crate) fn attach(
    interface: &Interface,
    pin_directory: &Path,
    mirror: Mirror,
    signalling_ports: &[u16],
    generic_is_allowed: bool,
) -> Result<Attached, CaptureError> {
    let name = interface.name();
    let Some(object) = TAP_OBJECT else {
        return Err(CaptureError::NoAfXdp {
            interface: name.to_owned(),
            reason: "built without the XDP program (`cargo xtask build-ebpf` makes it)".to_owned(),
        });
    };
    let pins = Pins::prepare(pin_directory, name)?;
    let maps_are_new = pins.as_ref().is_none_or(|pins| !pins.path(abi::MAP_SETTINGS).exists());
    let mut ebpf = load(object, name, pins.as_ref())?;
    let mut control = TapControl {
        interface: name.to_owned(),
        flows: map::<HashMap<_, _, _>>(&mut ebpf, name, abi::MAP_FLOWS)?,
        ports: map::<Array<_, _>>(&mut ebpf, name, abi::MAP_PORTS)?,
        counters: map::<PerCpuArray<_, _>>(&mut ebpf, name, abi::MAP_COUNTERS)?,
        index: FlowIndex::default(),
        link: None,
    };
    // What the program finds in its maps is right before it runs.
    let mut settings = map::<Array<MapData, Plain<abi::Settings>>>(&mut ebpf, name, abi::MAP_SETTINGS)?;
    let mirror = match mirror {
        Mirror::Dedicated => abi::MIRROR_DEDICATED,
        Mirror::Shared => abi::MIRROR_SHARED,
    };
    settings
        .set(0, Plain(abi::Settings { mirror }), 0)
        .map_err(|error| CaptureError::tap(name, "write the settings", error))?;
    control.set_signalling_ports(signalling_ports, maps_are_new)?;
    control.import_flows()?;
    let sockets = map::<XskMap<_>>(&mut ebpf, name, abi::MAP_SOCKETS)?;

    let program: &mut Xdp = ebpf
        .program_mut(abi::PROGRAM_NAME)
        .ok_or_else(|| damaged_object(name))?
        .try_into()
        .map_err(|error| CaptureError::tap(name, "take the program from the object", error))?;
    program.load().map_err(|error| CaptureError::tap(name, "load the XDP program", error))?;
    let was_running = match &pins {
        Some(pins) => pins.adopt_link(interface, program)?,
        None => false,
    };
    if !was_running {
        let link = attach_new(interface, program, generic_is_allowed)?;
        match &pins {
            Some(pins) => {
                link.pin(pins.path("link")).map_err(|error| CaptureError::tap(name, "pin the link", error))?;
            }
            None => control.link = Some(Arc::new(link)),
        }
    }
    // The kernel's own word for how it runs: 1 native, 2 generic, 3 in hardware (IFLA_XDP_ATTACHED).
    let mode = if interface.link()?.xdp_mode == 2 { AttachMode::Generic } else { AttachMode::Native };
    Ok(Attached { control, mode, was_running, sockets })
}

/// Takes our program off the interface, if an earlier run has left it there. Other programs stay.
pub(crate) fn detach(interface: &Interface, pin_directory: &Path) -> Result<(), CaptureError> {
    let name = interface.name();
    if interface.link()?.xdp_program == 0 {
        return Ok(());
    }
    let Some(pins) = Pins::prepare(pin_directory, name)? else { return Ok(()) };
    let Some((path, link)) = pins.running_link(interface)? else {
        tracing::warn!(interface = name, "another XDP program is attached; a packet socket sees what it lets pass");
        return Ok(());
    };
    remove(&path).map_err(|error| CaptureError::system(name, "unpin the XDP program", error))?;
    drop(link);
    tracing::info!(interface = name, "took the pinned XDP program off the interface");
    Ok(())
}

fn load(object: &[u8], interface: &str, pins: Option<&Pins>) -> Result<Ebpf, CaptureError> {
    let mut loader = EbpfLoader::new();
    if let Some(pins) = pins {
        for map in MAPS {
            loader.map_pin_path(map, pins.path(map));
        }
    }
    loader.load(object).map_err(|error| CaptureError::tap(interface, "load the XDP program's maps", error))
}

fn map<T: TryFrom<Map, Error = aya::maps::MapError>>(
    ebpf: &mut Ebpf,
    interface: &str,
    name: &str,
) -> Result<T, CaptureError> {
    let map = ebpf.take_map(name).ok_or_else(|| damaged_object(interface))?;
    T::try_from(map).map_err(|error| CaptureError::tap(interface, "use a map of the XDP program", error))
}

fn damaged_object(interface: &str) -> CaptureError {
    CaptureError::NoAfXdp {
        interface: interface.to_owned(),
        reason: "the XDP program's object lacks a part of ABI (build it again: `cargo xtask build-ebpf`)".to_owned(),
    }
}

/// Attaches in native mode, else, where allowed, in generic mode.
fn attach_new(interface: &Interface, program: &mut Xdp, generic_is_allowed: bool) -> Result<FdLink, CaptureError> {
    let name = interface.name();
    let running = interface.link()?.xdp_program;
    if running != 0 {
        return Err(CaptureError::NoAfXdp {
            interface: name.to_owned(),
            reason: format!("another XDP program ({}) is attached", describe_program(running)),
        });
    }
    let mut attempt = |mode| {
        let id = program.attach_to_if_index(interface.index(), mode)?;
        program.take_link(id)
    };
    let link = match attempt(XdpMode::Driver) {
        Ok(link) => link,
        Err(error) if generic_is_allowed => {
            tracing::warn!(interface = name, %error, "no native XDP; trying generic mode, which is slower");
            attempt(XdpMode::Skb).map_err(|error| CaptureError::tap(name, "attach the XDP program", error))?
        }
        Err(error) => return Err(CaptureError::tap(name, "attach the XDP program in native mode", error)),
    };
    FdLink::try_from(link).map_err(|error| CaptureError::tap(name, "hold the XDP program's link", error))
}

fn describe_program(id: u32) -> String {
    let name = loaded_programs()
        .filter_map(Result::ok)
        .find(|program| program.id() == id)
        .and_then(|program| program.name_as_str().map(ToOwned::to_owned));
    match name {
        Some(name) => format!("'{name}', id {id}"),
        None => format!("id {id}"),
    }
}

/// The directory of one interface on a BPF file system.
struct Pins {
    root: PathBuf,
    directory: PathBuf,
    interface: String,
}

impl Pins {
    /// Makes the directory; `None` (and a warning) where there is no BPF file system.
    fn prepare(root: &Path, interface: &str) -> Result<Option<Self>, CaptureError> {
        let existing = root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        let is_bpf_fs = rustix::fs::statfs(existing).is_ok_and(|fs| fs.f_type == BPF_FS_MAGIC);
        if !is_bpf_fs {
            tracing::warn!(
                interface,
                directory = %root.display(),
                "not on a BPF file system (mount -t bpf bpf /sys/fs/bpf): the XDP program ends with this process"
            );
            return Ok(None);
        }
        // The BPF file system takes no dots in names.
        let file_name = interface.replace('.', "%2e");
        let directory = root.join(format!("v{}", abi::ABI_VERSION)).join(&file_name);
        fs::create_dir_all(&directory)
            .map_err(|error| CaptureError::system(interface, "make the directory for pins", error))?;
        Ok(Some(Self { root: root.to_owned(), directory, interface: file_name }))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Finds the program running under a pinned link and makes sure that it is ours; false when there is none.
    fn adopt_link(&self, interface: &Interface, program: &mut Xdp) -> Result<bool, CaptureError> {
        let name = interface.name();
        let Some((path, link)) = self.running_link(interface)? else { return Ok(false) };
        let running = interface.link()?.xdp_program;
        let ours = program.info().map_err(|error| CaptureError::tap(name, "ask about our program", error))?;
        if is_same_program(running, &ours, name)? {
            return Ok(true);
        }
        let failed = |error| CaptureError::tap(name, "replace the attached program", error);
        let link = link.try_into().map_err(|error| CaptureError::tap(name, "use the pinned link", error))?;
        let id = program.attach_to_link(link).map_err(failed)?;
        let link = program.take_link(id).map_err(failed)?;
        tracing::info!(interface = name, "replaced the attached XDP program by this version's");
        if path != self.path("link") {
            let link = FdLink::try_from(link)
                .map_err(|error| CaptureError::tap(name, "hold the XDP program's link", error))?;
            link.pin(self.path("link")).map_err(|error| CaptureError::tap(name, "pin the link", error))?;
            self.remove_other_version(&path);
        }
        Ok(true)
    }

    /// The pinned link under which the interface's program runs. Removes a link of ours that is not on this interface:
    /// left from one that is gone, or from another by the same name.
    fn running_link(&self, interface: &Interface) -> Result<Option<(PathBuf, FdLink)>, CaptureError> {
        let name = interface.name();
        let running = interface.link()?.xdp_program;
        for path in self.links() {
            let link =
                PinnedLink::from_pin(&path).map_err(|error| CaptureError::tap(name, "open the pinned link", error))?;
            let link = FdLink::from(link);
            let info = link.info().map_err(|error| CaptureError::tap(name, "ask about the pinned link", error))?;
            if running != 0 && info.program_id() == running {
                return Ok(Some((path, link)));
            }
            if path == self.path("link") {
                remove(&path).map_err(|error| CaptureError::system(name, "remove a stale link", error))?;
            }
        }
        Ok(None)
    }

    /// Links pinned for this interface: ours first, then those of other ABI versions.
    fn links(&self) -> Vec<PathBuf> {
        let ours = self.path("link");
        let versions = fs::read_dir(&self.root).into_iter().flatten().filter_map(Result::ok);
        let others = versions.map(|version| version.path().join(&self.interface).join("link"));
        let others = others.filter(|path| *path != ours);
        std::iter::once(ours.clone()).chain(others).filter(|path| path.exists()).collect()
    }

    /// Removes what another version has pinned, now that its link runs our program.
    fn remove_other_version(&self, link: &Path) {
        let Some(directory) = link.parent() else { return };
        let files = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok).map(|file| file.path());
        for path in files {
            if let Err(error) = remove(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove what another version has pinned");
            }
        }
        if let Err(error) = fs::remove_dir(directory) {
            tracing::warn!(path = %directory.display(), %error, "cannot remove another version's directory");
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The same instructions over the same maps.
fn is_same_program(running: u32, ours: &ProgramInfo, interface: &str) -> Result<bool, CaptureError> {
    let failed = |error| CaptureError::tap(interface, "ask about the attached program", error);
    for program in loaded_programs() {
        let program = program.map_err(failed)?;
        if program.id() == running {
            let maps = |program: &ProgramInfo| {
                let mut maps = program.map_ids().map_err(failed)?.unwrap_or_default();
                maps.sort_unstable();
                Ok::<_, CaptureError>(maps)
            };
            return Ok(program.tag() == ours.tag() && maps(&program)? == maps(ours)?);
        }
    }
    Ok(false)
}

impl TapControl {
    /// Verdicts of the process before, so that they can be forgotten.
    fn import_flows(&mut self) -> Result<(), CaptureError> {
        let now_ns = monotonic_ns();
        let mut found = Vec::new();
        for entry in &self.flows {
            let (Plain(key), Plain(verdict)) =
                entry.map_err(|error| CaptureError::tap(&self.interface, "read the flow map", error))?;
            if verdict.discard_until_ns > now_ns {
                found.push((verdict.discard_until_ns, key));
            }
        }
        found.sort_unstable_by_key(|&(until_ns, _)| until_ns);
        for (until_ns, key) in found {
            self.index.insert(key, until_ns, now_ns);
        }
        Ok(())
    }
}
