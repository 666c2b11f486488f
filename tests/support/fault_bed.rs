//! What real faults need: small file systems that go when their guard does, processes of their own, filters of system calls.
#![allow(dead_code, unreachable_pub)]

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

pub const MIB: u64 = 1 << 20;

/// Whether file systems may be mounted here.
pub fn is_root() -> bool {
    // SAFETY: the call only returns a number.
    unsafe { libc::geteuid() == 0 }
}

fn run(command: &mut Command) -> Result<Output, String> {
    match command.output() {
        Ok(output) if output.status.success() => Ok(output),
        Ok(output) => Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("{command:?}: {error}")),
    }
}

/// A mounted file system with a folder of its own; unmounted and gone with the guard.
#[derive(Debug)]
pub struct Mounted {
    folder: TempDir,
    /// The loop device and its image, if it has one.
    image: Option<Image>,
}

/// A file of so many bytes behind a loop device.
#[derive(Debug)]
pub struct Image {
    pub device: PathBuf,
    pub file: PathBuf,
    _folder: TempDir,
}

impl Image {
    /// # Errors
    /// With a sentence, where there are no loop devices for us.
    pub fn new(bytes: u64) -> Result<Self, String> {
        if !is_root() {
            return Err("loop devices need root".to_owned());
        }
        // In memory: where the machine's own disk is busy, it must not look as if this one hung.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder");
        let file = folder.path().join("image");
        std::fs::File::create(&file).and_then(|file| file.set_len(bytes)).expect("an image");
        let output = run(Command::new("losetup").args(["--find", "--show"]).arg(&file))?;
        let device = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        Ok(Image { device, file, _folder: folder })
    }

    /// Cut the image down: what lies behind cannot be read any more.
    pub fn cut(&self, bytes: u64) {
        let file = std::fs::File::options().write(true).open(&self.file).expect("the image");
        file.set_len(bytes).expect("an image can be cut");
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = run(Command::new("losetup").arg("--detach").arg(&self.device));
    }
}

impl Mounted {
    /// A tmpfs of so many bytes.
    ///
    /// # Errors
    /// With a sentence, where nothing can be mounted.
    pub fn tmpfs(bytes: u64) -> Result<Self, String> {
        if !is_root() {
            return Err("mounting needs root".to_owned());
        }
        let folder = tempfile::tempdir().expect("a folder");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "none"]).arg(folder.path()))?;
        Ok(Mounted { folder, image: None })
    }

    /// An ext4 without a journal on an image of so many bytes.
    ///
    /// # Errors
    /// As [`tmpfs`](Self::tmpfs), and where there is no `mkfs.ext4`.
    pub fn ext4(bytes: u64) -> Result<Self, String> {
        let image = Image::new(bytes)?;
        run(Command::new("mkfs.ext4").args(["-q", "-b", "4096", "-O", "^has_journal"]).arg(&image.device))?;
        let folder = tempfile::tempdir().expect("a folder");
        run(Command::new("mount").arg(&image.device).arg(folder.path()))?;
        Ok(Mounted { folder, image: Some(image) })
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn image(&self) -> &Image {
        self.image.as_ref().expect("a file system on an image")
    }

    /// A tmpfs of another size.
    pub fn resize(&self, bytes: u64) {
        run(Command::new("mount").args(["-o", &format!("remount,size={bytes}")]).arg(self.path())).expect("remount");
    }

    /// Every request fails from now on.
    pub fn shut_down(&self) {
        const EXT4_IOC_SHUTDOWN: libc::c_ulong = 0x8004_587d;
        let folder = std::fs::File::open(self.path()).expect("a folder");
        let without_the_log: u32 = 2;
        // SAFETY: the number is read by the call, and outlives it.
        let done = unsafe { libc::ioctl(folder.as_raw_fd(), EXT4_IOC_SHUTDOWN as _, &without_the_log) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    }

    /// Unmount and mount it again.
    pub fn remount(&self) {
        run(Command::new("umount").arg(self.path())).expect("nobody uses it");
        run(Command::new("mount").arg(&self.image().device).arg(self.path())).expect("it was mounted before");
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = run(Command::new("umount").arg(self.folder.path()));
    }
}

/// Run the test of this name of this binary again, with `ZSPOOL_FAULT_CHILD` set to `how`, behind `wrapper` (a program and its
/// arguments, or nothing). Returns what it printed.
///
/// # Panics
/// When it fails, or there is no such test.
pub fn run_child(name: &str, how: &str, wrapper: &[&str]) -> String {
    let this = std::env::current_exe().expect("the path of this program");
    let mut command = match wrapper {
        [] => Command::new(&this),
        [program, arguments @ ..] => {
            let mut command = Command::new(program);
            command.args(arguments).arg(&this);
            command
        }
    };
    let command = command.args(["--exact", name, "--nocapture", "--test-threads=1"]).env(CHILD, how);
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(stdout.contains("running 1 test\n"), "there is no test {name}: {stdout}{stderr}");
    assert!(output.status.success(), "{how}: {}\n{stdout}{stderr}", output.status);
    stdout.into_owned()
}

const CHILD: &str = "ZSPOOL_FAULT_CHILD";

/// How [`run_child`] asked for this process; `None`: it did not.
pub fn child() -> Option<String> {
    std::env::var(CHILD).ok()
}

/// Whether the program is there.
pub fn has(program: &str) -> bool {
    Command::new(program).arg("-V").output().is_ok_and(|output| output.status.success())
}

/// From now on, `call` (`pread64` or `pwrite64`) at byte `from` of a file or behind, but before `to`, fails on this thread, and
/// on those that it starts, with this error number.
///
/// # Errors
/// With what the kernel says.
pub fn fail_at_offsets(call: libc::c_long, from: u32, to: u32, errno: i32) -> std::io::Result<()> {
    // struct seccomp_data: the number of the call in bytes 0..4, arguments of 8 bytes from byte 16; the fourth is the offset.
    const OFFSET_LOW: u32 = 16 + 3 * 8;
    let load = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    let (equal, at_least) = ((libc::BPF_JMP | libc::BPF_JEQ) as u16, (libc::BPF_JMP | libc::BPF_JGE) as u16);
    let answer = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let filter = [
        step(load, 0, 0, 0),
        step(equal, 0, 4, call as u32),
        step(load, 0, 0, OFFSET_LOW), // of files below 4 GiB
        step(at_least, 0, 2, from),
        step(at_least, 1, 0, to),
        step(answer, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        step(answer, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: takes numbers only.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the program and the filter that it names outlive the call, which copies them.
    if unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}
