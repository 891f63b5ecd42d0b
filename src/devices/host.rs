//! The host's memory: what the kernel calls available, within the limits of the control group.

use std::fs;
use std::path::{Path, PathBuf};

use super::Memory;

/// Limits at and above this are none: version 1 writes the largest whole number of pages.
const NO_LIMIT: u64 = 1 << 60;

/// Free and total memory of the host, or of the container this process is in. `None` where `/proc` does not say.
pub fn memory() -> Option<Memory> {
    memory_below(Path::new("/"))
}

/// The same below another root, for tests.
fn memory_below(root: &Path) -> Option<Memory> {
    let read = |path: &str| fs::read_to_string(root.join(path)).ok();
    let machine = of_meminfo(&read("proc/meminfo")?)?;
    let (groups, mounts) = (read("proc/self/cgroup"), read("proc/self/mountinfo"));
    let (Some(groups), Some(mounts)) = (groups, mounts) else { return Some(machine) };
    let folders = group_folders(&groups, &mounts);
    Some(folders.iter().fold(machine, |memory, (version, folder)| {
        let folder = root.join(folder.strip_prefix("/").unwrap_or(folder));
        within_group(memory, *version, &folder)
    }))
}

/// `MemAvailable` and `MemTotal`, which are in KiB.
fn of_meminfo(text: &str) -> Option<Memory> {
    let value = |key: &str| {
        let rest = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    Some(Memory { free: value("MemAvailable")?, total: value("MemTotal")? })
}

/// The version of a hierarchy of control groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// The folders of this process's memory groups, from the innermost out, in every hierarchy that is mounted.
fn group_folders(groups: &str, mounts: &str) -> Vec<(Version, PathBuf)> {
    let mut folders = Vec::new();
    for line in groups.lines() {
        // `0::/path` in version 2, `4:memory:/path` in version 1.
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(group)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let version = match controllers {
            "" => Version::V2,
            list if list.split(',').any(|controller| controller == "memory") => Version::V1,
            _ => continue,
        };
        let Some((mount_root, mount_point)) = find_mount(mounts, version) else { continue };
        // In a container the group's path may lie outside what is mounted: then the mount is the group.
        let inside = Path::new(group).strip_prefix(&mount_root).unwrap_or(Path::new(""));
        let inside = inside.components().filter(|part| matches!(part, std::path::Component::Normal(_)));
        let folder = mount_point.join(inside.collect::<PathBuf>());
        let within = folder.ancestors().take_while(|folder| folder.starts_with(&mount_point));
        folders.extend(within.map(|folder| (version, folder.to_owned())));
    }
    folders
}

/// Root and place of the mount of a hierarchy, from `/proc/self/mountinfo`.
fn find_mount(mounts: &str, version: Version) -> Option<(PathBuf, PathBuf)> {
    mounts.lines().find_map(|line| {
        // `31 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,memory`
        let (place, kind) = line.split_once(" - ")?;
        let (mut place, mut kind) = (place.split(' ').skip(3), kind.split(' '));
        let fits = match (version, kind.next()?) {
            (Version::V2, "cgroup2") => true,
            (Version::V1, "cgroup") => kind.nth(1)?.split(',').any(|option| option == "memory"),
            _ => false,
        };
        fits.then_some(())?;
        Some((place.next()?.into(), place.next()?.into()))
    })
}

/// `memory` cut to what one group leaves. What the group holds as file cache can be taken back and is free.
fn within_group(memory: Memory, version: Version, folder: &Path) -> Memory {
    let number = |file: &str| fs::read_to_string(folder.join(file)).ok()?.trim().parse::<u64>().ok();
    let (limit, used) = match version {
        Version::V2 => ("memory.max", "memory.current"),
        Version::V1 => ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    };
    // `max` in version 2 is no number.
    let Some(limit) = number(limit).filter(|limit| *limit < NO_LIMIT) else { return memory };
    let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let key = if version == Version::V1 { "total_inactive_file " } else { "inactive_file " };
    let cache = stat.lines().find_map(|line| line.strip_prefix(key)?.trim().parse::<u64>().ok()).unwrap_or(0);
    let used = number(used).unwrap_or(0).saturating_sub(cache);
    Memory { free: memory.free.min(limit.saturating_sub(used)), total: memory.total.min(limit) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "MemTotal:       1000 kB\nMemFree:        10 kB\nMemAvailable:   800 kB\n";

    /// A root with these files.
    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    fn kib(free: u64, total: u64) -> Option<Memory> {
        Some(Memory { free: free * 1024, total: total * 1024 })
    }

    #[test]
    fn without_groups_it_is_what_the_kernel_calls_available() {
        let dir = root(&[("proc/meminfo", MEMINFO)]);
        assert_eq!(memory_below(dir.path()), kib(800, 1000));
        assert_eq!(memory_below(root(&[("proc/meminfo", "nonsense\n")]).path()), None);
    }

    #[test]
    fn the_tightest_group_on_the_way_out_limits_it_in_version_2() {
        let files = [
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "0::/slice/job\n"),
            ("proc/self/mountinfo", "31 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n"),
            ("sys/fs/cgroup/slice/job/memory.max", "max\n"),
            ("sys/fs/cgroup/slice/memory.max", "512000\n"),
            ("sys/fs/cgroup/slice/memory.current", "307200\n"),
            ("sys/fs/cgroup/slice/memory.stat", "anon 1\ninactive_file 102400\n"),
        ];
        // 500 KiB, of which 300 are used and 100 of those are cache.
        assert_eq!(memory_below(root(&files).path()), kib(300, 500));
    }

    #[test]
    fn version_1_has_its_own_files_and_its_own_word_for_no_limit() {
        let mut files = vec![
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "5:devices:/\n4:memory:/docker/abc\n0::/\n"),
            (
                "proc/self/mountinfo",
                "32 31 0:30 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
            ),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ];
        assert_eq!(memory_below(root(&files).path()), kib(800, 1000));
        files[3].1 = "204800\n";
        files.push(("sys/fs/cgroup/memory/memory.usage_in_bytes", "102400\n"));
        files.push(("sys/fs/cgroup/memory/memory.stat", "inactive_file 9\ntotal_inactive_file 51200\n"));
        assert_eq!(memory_below(root(&files).path()), kib(150, 200));
    }

    #[test]
    fn a_group_outside_the_mount_is_the_mount() {
        let files = [
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "0::/../../other\n"),
            ("proc/self/mountinfo", "31 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"),
            ("sys/fs/cgroup/memory.max", "102400\n"),
        ];
        assert_eq!(memory_below(root(&files).path()), kib(100, 100));
    }
}
