//! The XDP program on a mirror port.
//!
//! Constraints: no loop without a constant bound, no panic that could be reached (the handler loops, so that the
//! verifier refuses the program instead), no per-packet log. Which frame goes where is decided in
//! [`sidetone_tap_abi::judge`], which the host tests and fuzzes; here is only what touches the kernel.
#![no_std]
#![no_main]

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_REDIRECT};
use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_xdp_adjust_meta, bpf_xdp_get_buff_len};
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, LruHashMap, PerCpuArray, XskMap};
use aya_ebpf::programs::XdpContext;
use sidetone_tap_abi::{
    COUNTERS as COUNTERS_LENGTH, Counter, FlowKey, FlowVerdict, MAX_FLOWS, MAX_QUEUES, METADATA_BYTES, MIRROR_SHARED,
    PORTS as PORTS_LENGTH, PortEntry, Reason, Settings, Tables, Verdict, View, judge,
};

#[map]
static SOCKETS: XskMap = XskMap::with_max_entries(MAX_QUEUES, 0);
#[map]
static FLOWS: LruHashMap<FlowKey, FlowVerdict> = LruHashMap::with_max_entries(MAX_FLOWS, 0);
#[map]
static PORTS: Array<PortEntry> = Array::with_max_entries(PORTS_LENGTH, 0);
#[map]
static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTERS_LENGTH, 0);

#[xdp(frags)]
pub fn tap(context: XdpContext) -> u32 {
    count(Counter::Received);
    let is_shared = SETTINGS.get(0).is_some_and(|settings| settings.mirror == MIRROR_SHARED);
    let unwanted_action = if is_shared { XDP_PASS } else { XDP_DROP };
    let reason = match judge(&Packet::new(&context), &Kernel) {
        Verdict::Redirect(interest) => {
            // The fallback action in the flags is what comes back when the slot is empty.
            let action = SOCKETS.redirect(context.rx_queue_index(), u64::from(unwanted_action));
            if action == Ok(XDP_REDIRECT) {
                stamp(&context);
                count(Counter::Redirected(interest));
                return XDP_REDIRECT;
            }
            Reason::NoSocket
        }
        Verdict::Unwanted(reason) => reason,
    };
    count(if is_shared { Counter::Passed(reason) } else { Counter::Dropped(reason) });
    unwanted_action
}

/// The directly readable part of the frame; the tail of a jumbo frame lies outside.
struct Packet {
    data: usize,
    data_end: usize,
    length: u32,
}

impl Packet {
    #[inline(always)]
    fn new(context: &XdpContext) -> Self {
        // SAFETY: the helper only reads the context, which is the one the kernel gave us.
        let length = unsafe { bpf_xdp_get_buff_len(context.ctx) };
        Self { data: context.data(), data_end: context.data_end(), length: length as u32 }
    }
}

impl View for Packet {
    #[inline(always)]
    fn len(&self) -> u32 {
        self.length
    }

    #[inline(always)]
    fn bytes<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        // The verifier wants a constant bound on what is added to a packet pointer.
        if offset > 0x3FFF {
            return None;
        }
        let start = self.data + offset as usize;
        if start + N > self.data_end {
            return None;
        }
        // SAFETY: start..start + N lies between data and data_end, which the verifier checks again.
        Some(unsafe { (start as *const [u8; N]).read_unaligned() })
    }
}

struct Kernel;

impl Tables for Kernel {
    #[inline(always)]
    fn now_ns(&self) -> u64 {
        // SAFETY: the helper has no preconditions.
        unsafe { bpf_ktime_get_ns() }
    }

    #[inline(always)]
    fn port(&self, port: u16) -> PortEntry {
        PORTS.get(u32::from(port)).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn discard_until_ns(&self, key: &FlowKey) -> Option<u64> {
        // SAFETY: values are one aligned u64, so that a read beside an update or a reuse gives an old or a new value.
        unsafe { FLOWS.get(key) }.map(|verdict| verdict.discard_until_ns)
    }
}

/// Writes the arrival time in front of the frame. A driver without metadata leaves the frame unstamped, which user
/// space recognises.
#[inline(always)]
fn stamp(context: &XdpContext) {
    // SAFETY: the helper has no preconditions.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    // SAFETY: the context is the kernel's own; packet pointers are read again below, as the helper moves them.
    if unsafe { bpf_xdp_adjust_meta(context.ctx, -(METADATA_BYTES as i32)) } != 0 {
        return;
    }
    let start = context.metadata();
    if start + METADATA_BYTES as usize > context.metadata_end() {
        return;
    }
    // SAFETY: METADATA_BYTES lie between the metadata's start and the frame, which the verifier checks again.
    unsafe { (start as *mut u64).write_unaligned(now_ns) };
}

#[inline(always)]
fn count(counter: Counter) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter.index()) {
        // SAFETY: the slot is this CPU's own, and XDP programs are not preempted on it.
        unsafe { *value += 1 };
    }
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
