//! `mgpack pull`.

use mgpack::Result;
use mgpack::verbs::pull::{self, PullCall, Pullable, Pulled};

use super::args::PullArgs;
use super::{Verdict, ui, work};

pub(super) fn run(args: &PullArgs) -> Result<Verdict> {
    let call = PullCall {
        model: args.model.clone(),
        revision: args.revision.clone(),
        include: args.include.clone(),
        exclude: args.exclude.clone(),
        no_towers: args.no_towers,
        offline: args.offline,
    };
    let bars = ui::Bars::new(args.talk.progress);
    if args.dry_run
        && let Some(downloads) = pull::preview(&call, work(&bars))?
    {
        drop(bars);
        return show_downloads(&downloads, args.talk.json);
    }
    let pulled = pull::pull(&call, work(&bars))?;
    drop(bars);
    show(&pulled, args.talk.json)
}

fn show(pulled: &[Pulled], as_json: bool) -> Result<Verdict> {
    if as_json {
        super::print_json(&pulled)?;
    } else {
        let mut screen = ui::Screen::new();
        for one in pulled {
            screen.whole(&one.path.display().to_string());
        }
        screen.print();
    }
    Ok(Verdict::Good)
}

fn show_downloads(downloads: &[Pullable], as_json: bool) -> Result<Verdict> {
    if as_json {
        super::print_json(&downloads)?;
        return Ok(Verdict::Good);
    }
    let mut screen = ui::Screen::new();
    for download in downloads {
        let rows = download.files.iter().map(|file| {
            let state = if file.cached { "cached" } else { "fetch" };
            vec![file.path.as_str().into(), ui::Cell::Size(file.bytes), state.into()]
        });
        screen.table(&ui::Table::new(&[download.repo.as_str(), "size", ""]).with_rows(rows));
        screen.toned(ui::Tone::Strong, &format!("to fetch: {}", ui::bytes(download.fetch_bytes)));
    }
    screen.print();
    Ok(Verdict::Good)
}
