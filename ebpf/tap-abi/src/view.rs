//! Bounds-checked reads from a frame, in network byte order.

/// The bytes of one frame. The host implements it for slices, the XDP program for `data`/`data_end`.
///
/// Offsets come from hostile packets: an implementation answers `None` for everything that is not readable.
pub trait View {
    /// Length of the frame in bytes. In the kernel a frame's tail may lie outside the directly readable part, so that
    /// a read below `len` can still fail.
    fn len(&self) -> u32;

    /// `N` bytes at `offset`.
    fn bytes<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;

    #[inline(always)]
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[inline(always)]
    fn u8(&self, offset: u32) -> Option<u8> {
        self.bytes::<1>(offset).map(|[byte]| byte)
    }

    #[inline(always)]
    fn u16(&self, offset: u32) -> Option<u16> {
        self.bytes::<2>(offset).map(u16::from_be_bytes)
    }

    #[inline(always)]
    fn u32(&self, offset: u32) -> Option<u32> {
        self.bytes::<4>(offset).map(u32::from_be_bytes)
    }
}

impl View for [u8] {
    #[inline(always)]
    fn len(&self) -> u32 {
        // No link layer has frames of 4 GiB; what lies beyond could not be addressed by a length field either.
        if <[u8]>::len(self) > u32::MAX as usize { u32::MAX } else { <[u8]>::len(self) as u32 }
    }

    #[inline(always)]
    fn bytes<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.get(offset as usize..)?.first_chunk::<N>().copied()
    }
}

impl<V: View + ?Sized> View for &V {
    #[inline(always)]
    fn len(&self) -> u32 {
        (**self).len()
    }

    #[inline(always)]
    fn bytes<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        (**self).bytes(offset)
    }
}
