//! Finds the XDP program's object and puts it into the crate. Without one the crate builds all the same, and AF_XDP is
//! then not available.

use std::path::{Path, PathBuf};
use std::{env, fs};

include!("../../ebpf/tap-abi/src/version.rs");

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=../../ebpf/tap-abi/src/version.rs");
    println!("cargo:rerun-if-env-changed=SIDETONE_TAP_OBJECT");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let source = match find_object(&out) {
        Some(object) => {
            println!("cargo:rerun-if-changed={}", object.display());
            let copy = out.join("tap.o");
            fs::copy(&object, &copy)
                .unwrap_or_else(|error| panic!("cannot copy {} to {}: {error}", object.display(), copy.display()));
            format!("Some(aya::include_bytes_aligned!({copy:?}))")
        }
        None => "None".to_owned(),
    };
    let module = format!(
        "/// The XDP program's object, if there was one when this crate was built.\n\
         pub const TAP_OBJECT: Option<&[u8]> = {source};\n"
    );
    fs::write(out.join("tap_object.rs"), module).expect("OUT_DIR is writable");
}

/// `SIDETONE_TAP_OBJECT`, else where `cargo xtask build-ebpf` puts it: `tap/` in the target directory.
fn find_object(out: &Path) -> Option<PathBuf> {
    if let Some(object) = env::var_os("SIDETONE_TAP_OBJECT").map(PathBuf::from) {
        if object.is_file() {
            return Some(object);
        }
        println!("cargo:warning=SIDETONE_TAP_OBJECT={} is no file: built without the XDP program", object.display());
        return None;
    }
    // OUT_DIR is TARGET/[TRIPLE/]PROFILE/build/CRATE-HASH/out.
    let target = env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let directories = target.into_iter().chain(out.ancestors().skip(4).take(2).map(Path::to_owned));
    let directories: Vec<PathBuf> = directories.map(|directory| directory.join("tap")).collect();
    let found =
        directories.iter().map(|directory| directory.join(format!("tap-v{ABI_VERSION}.o"))).find(|o| o.is_file());
    if found.is_none() {
        // An empty directory to be watched: a missing file would have this script run at every build.
        let directory = &directories[0];
        if fs::create_dir_all(directory).is_ok() {
            println!("cargo:rerun-if-changed={}", directory.display());
        }
    }
    found
}
