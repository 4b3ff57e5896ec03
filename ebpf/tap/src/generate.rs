//! Traffic for benchmarks and tests: run by BPF_PROG_TEST_RUN with live frames, it gives each copy of the frame a flow
//! of its own and sends it out of an interface. `sink` is the other end, for comparison.
#![no_std]
#![no_main]

use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_DROP};
use aya_ebpf::helpers::generated::bpf_redirect;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, PerCpuArray};
use aya_ebpf::programs::XdpContext;

/// Interface index, and number of flows.
#[map]
static TARGET: Array<[u32; 2]> = Array::with_max_entries(1, 0);
/// Frames sent.
#[map]
static SENT: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Frames that `sink` has dropped.
#[map]
static SUNK: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Ethernet, IPv4 without options, UDP, RTP: the source port's and the SSRC's places.
const SOURCE_PORT_OFFSET: usize = 34;
const SSRC_OFFSET: usize = 50;

#[xdp]
pub fn generate(context: XdpContext) -> u32 {
    send(&context).unwrap_or(XDP_ABORTED)
}

#[inline(always)]
fn send(context: &XdpContext) -> Option<u32> {
    let &[interface, flows] = TARGET.get(0)?;
    let sent = SENT.get_ptr_mut(0)?;
    // SAFETY: the slot is this CPU's own.
    let number = unsafe {
        let number = *sent;
        *sent += 1;
        number
    };
    if flows > 1 {
        let start = context.data();
        if start + SSRC_OFFSET + 4 > context.data_end() {
            return None;
        }
        let flow = (number % u64::from(flows)) as u32;
        let port = 10_000 + (flow % 25_000) as u16 * 2;
        // SAFETY: both places lie between data and data_end, checked above.
        unsafe {
            ((start + SOURCE_PORT_OFFSET) as *mut [u8; 2]).write_unaligned(port.to_be_bytes());
            ((start + SSRC_OFFSET) as *mut [u8; 4]).write_unaligned((0x5EED_0000 + flow).to_be_bytes());
        }
    }
    // SAFETY: the helper has no preconditions.
    Some(unsafe { bpf_redirect(interface, 0) } as u32)
}

/// The cheapest end of a frame: what remains of the cost is the generator's and the virtual wire's.
#[xdp]
pub fn sink(_context: XdpContext) -> u32 {
    if let Some(sunk) = SUNK.get_ptr_mut(0) {
        // SAFETY: the slot is this CPU's own.
        unsafe { *sunk += 1 };
    }
    XDP_DROP
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
