//! `mgpack pull`.

use std::collections::HashSet;

use mgpack::Result;
use mgpack::checkpoint::hub::Snapshot;
use mgpack::error::CacheError;
use mgpack::family::{Detected, Family};
use mgpack::hub::{Download, Wanted};
use mgpack::locate::{self, Places};
use serde_json::json;

use super::args::PullArgs;
use super::{STOP, Verdict, fetch, ui};

pub(super) fn run(args: &PullArgs) -> Result<Verdict> {
    let places = Places::from_env(|name| std::env::var_os(name));
    let hub_id = locate::hub_id(&args.model)?;
    let known = fetch::family_of(&hub_id).filter(|_| !args.no_towers);
    let tower = fetch::tower_of(&hub_id);
    let revision = args.revision.as_deref();
    let hub = if args.offline { None } else { fetch::hub(&places)? };
    let Some(hub) = hub else {
        let cache = places.cache.as_ref().ok_or(CacheError::NoCacheFolder)?;
        let mut found = vec![match tower {
            Some(tower) => locate::tower_in_cache(tower, cache)?,
            None => cache.find_checkpoint(&hub_id, revision)?,
        }];
        for tower in known.into_iter().flat_map(|family| &family.towers) {
            found.push(locate::tower_in_cache(tower, cache)?);
        }
        return show(&found, args);
    };
    let wanted = match tower {
        Some(tower) if args.include.is_empty() && args.exclude.is_empty() => Wanted::Tower(tower),
        _ => Wanted::Patterns { include: &args.include, exclude: &args.exclude },
    };
    let mut downloads = vec![hub.plan(&hub_id, revision, wanted, &ui::Notes, &STOP)?];
    for tower in known.into_iter().flat_map(|family| &family.towers) {
        downloads.push(hub.plan(tower.hub_id.as_str(), None, Wanted::Tower(tower), &ui::Notes, &STOP)?);
    }
    if args.dry_run {
        return show_plan(&downloads, args);
    }
    let mut snapshots = fetch::fetch(&hub, &downloads, args.talk.progress)?;
    if known.is_none()
        && !args.no_towers
        && let Some(config) = fetch::config(&snapshots[0].dir)
        && let Detected::Mgm(found) = Family::detect(&config)
    {
        let plan = |tower| hub.plan(tower_id(tower), None, Wanted::Tower(tower), &ui::Notes, &STOP);
        let downloads: Vec<_> = found.family.towers.iter().map(plan).collect::<Result<_>>()?;
        snapshots.extend(fetch::fetch(&hub, &downloads, args.talk.progress)?);
    }
    show(&snapshots, args)
}

fn tower_id(tower: &mgpack::family::Tower) -> &str {
    tower.hub_id.as_str()
}

fn show(snapshots: &[Snapshot], args: &PullArgs) -> Result<Verdict> {
    if args.talk.json {
        let list: Vec<_> = snapshots
            .iter()
            .map(|one| json!({ "repo": one.repo_id, "commit": one.commit, "path": one.dir }))
            .collect();
        super::print_json(&list)?;
    } else {
        let mut screen = ui::Screen::new();
        for one in snapshots {
            screen.whole(&one.dir.display().to_string());
        }
        screen.print();
    }
    Ok(Verdict::Good)
}

fn show_plan(downloads: &[Download<'_>], args: &PullArgs) -> Result<Verdict> {
    let missing_of = |download: &Download<'_>| -> HashSet<String> {
        download.missing_files.iter().map(|file| file.hash.name().to_owned()).collect()
    };
    if args.talk.json {
        let list: Vec<_> = downloads
            .iter()
            .map(|download| {
                let missing = missing_of(download);
                let files: Vec<_> = download
                    .files
                    .iter()
                    .map(|file| {
                        json!({ "path": file.path, "bytes": file.size, "hash": file.hash.name(), "cached": !missing.contains(file.hash.name()) })
                    })
                    .collect();
                json!({ "repo": download.repo_id, "commit": download.commit, "fetch_bytes": download.missing, "files": files })
            })
            .collect();
        super::print_json(&list)?;
        return Ok(Verdict::Good);
    }
    let mut screen = ui::Screen::new();
    for download in downloads {
        let missing = missing_of(download);
        let rows = download.files.iter().map(|file| {
            let state = if missing.contains(file.hash.name()) { "fetch" } else { "cached" };
            vec![file.path.as_str().into(), ui::Cell::Size(file.size), state.into()]
        });
        screen.table(&ui::Table::new(&[download.repo_id.as_str(), "size", ""]).with_rows(rows));
        screen.toned(ui::Tone::Strong, &format!("to fetch: {}", ui::bytes(download.missing)));
    }
    screen.print();
    Ok(Verdict::Good)
}
