//! Misdeeds that safe Rust cannot express.

use core::arch::wasm32;

/// The trap `unreachable`, without a panic's message.
pub(crate) fn trap() -> ! {
    wasm32::unreachable()
}

/// Reads an address outside a memory of 64 MiB.
pub(crate) fn read_out_of_bounds() -> u8 {
    let address = std::hint::black_box(0xffff_0000_usize as *const u8);
    unsafe { address.read_volatile() }
}

/// Random bytes as libc gives them, from `wasi:random/random`.
pub(crate) fn random(bytes: &mut [u8]) {
    unsafe extern "C" {
        fn getentropy(buffer: *mut u8, length: usize) -> i32;
    }
    let result = unsafe { getentropy(bytes.as_mut_ptr(), bytes.len()) };
    assert_eq!(result, 0, "getentropy");
}

/// A handle of stdout that is never dropped.
pub(crate) fn leak_handle() {
    #[link(wasm_import_module = "wasi:cli/stdout@0.2.0")]
    unsafe extern "C" {
        #[link_name = "get-stdout"]
        fn get_stdout() -> i32;
    }
    unsafe { get_stdout() };
}

/// The bits of a sum with a NaN. Processors differ in how they propagate its payload.
pub(crate) fn nan() -> u64 {
    let nan = std::hint::black_box(f64::from_bits(0xfff8_dead_beef_0001));
    (nan + std::hint::black_box(1.0)).to_bits()
}
