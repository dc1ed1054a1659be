//! `import-layout`: reads the vendor's files of shelves and furniture into the layout tables.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::json;

use super::output::printable;
use super::{ConfigFileArgs, output};
use crate::exit;
use crate::files;
use crate::layout::changes::{LayoutAction, LayoutChange, LayoutKind};
use crate::layout::{FileRemark, LayoutFindings, MAX_FILE, SiteLayout, read};
use crate::store::Store;
use crate::store::layout::{BoardElsewhere, LayoutImport};
use crate::telemetry::stderr;

/// Most problems, and most remarks about kept keys, that are printed as text.
const SHOWN: usize = 100;

/// Command-line arguments of `import-layout`.
#[derive(Debug, clap::Args)]
pub struct ImportLayoutArgs {
    /// YAML files with shelves and furniture (`-`: standard input)
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    config: ConfigFileArgs,
    /// Only show what would change
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON document, for programs
    #[arg(long)]
    json: bool,
}

/// Runs the command. Returns exit code 1 if the files have problems. Nothing is then imported.
pub async fn run(args: ImportLayoutArgs) -> anyhow::Result<ExitCode> {
    let config = args.config.load()?.config;
    let findings = read_files(&args.files)?;
    if !findings.problems.is_empty() {
        return refuse(&findings.problems, &findings.notices, args.json);
    }
    let store = Store::new(&config.database, config.retention.partition)?;
    let import = store.import_layout(&config.tenant, &findings, args.dry_run).await;
    match import.context("could not import the layout; nothing was changed")? {
        LayoutImport::Refused(elsewhere) => {
            let problems: Vec<FileRemark> =
                elsewhere.iter().filter_map(|board| two_shelves(board, &findings)).collect();
            refuse(&problems, &findings.notices, args.json)
        }
        LayoutImport::Done { layout, changes } => {
            let text = if args.json {
                output::json(&json!({
                    "dry_run": args.dry_run,
                    "changes": changes,
                    "notices": findings.notices,
                }))?
            } else {
                show_remarks(&findings.notices);
                report(&changes, &layout, args.dry_run)
            };
            print(&text)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn read_files(paths: &[PathBuf]) -> anyhow::Result<LayoutFindings> {
    let mut contents = Vec::new();
    for path in paths {
        // One byte more than allowed, so that a larger file is noticed.
        let (name, bytes) = if path == Path::new("-") {
            let mut bytes = Vec::new();
            let read = std::io::stdin().lock().take(MAX_FILE + 1).read_to_end(&mut bytes);
            ("standard input".to_owned(), read.map(|_| bytes.into()))
        } else {
            (path.display().to_string(), files::read(path, MAX_FILE + 1))
        };
        let bytes = bytes.with_context(|| format!("could not read {name}; nothing was changed"))?;
        contents.push((name, bytes));
    }
    Ok(read(contents.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice()))))
}

fn two_shelves(board: &BoardElsewhere, findings: &LayoutFindings) -> Option<FileRemark> {
    let BoardElsewhere { board_sn, shelf_sn } = board;
    let here = findings.layout.boards.iter().find(|here| here.board_sn == *board_sn)?;
    let text = format!(
        "board {board_sn:?} is on shelf {:?} here and on shelf {shelf_sn:?} of an earlier import; \
         import the file of {shelf_sn:?} without it in the same command",
        here.shelf_sn
    );
    let place = findings.board_places.get(board_sn)?.clone();
    Some(FileRemark { place, key: String::new(), text })
}

fn refuse(problems: &[FileRemark], notices: &[FileRemark], json: bool) -> anyhow::Result<ExitCode> {
    if json {
        print(&output::json(&json!({ "problems": problems, "notices": notices }))?)?;
    } else {
        show_remarks(problems);
    }
    let found = counted(problems.len(), "problem");
    stderr::line(format_args!("centiloc-bridge: {found} in the files; nothing was changed"));
    Ok(ExitCode::from(exit::FAILED))
}

fn show_remarks(remarks: &[FileRemark]) {
    for remark in remarks.iter().take(SHOWN) {
        stderr::line(format_args!("{}", printable(&remark.to_string())));
    }
    if remarks.len() > SHOWN {
        stderr::line(format_args!("and {} more: see --json", remarks.len() - SHOWN));
    }
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("could not write to stdout")
}

/// Formats one line per change. Boards and locations of a shelf that is added or removed as a whole
/// are only counted.
fn report(changes: &[LayoutChange], layout: &SiteLayout, dry_run: bool) -> String {
    let mut text = String::new();
    let mut whole = BTreeMap::new();
    for change in changes.iter().filter(|change| change.kind == LayoutKind::Shelf) {
        whole.insert(change.name.as_str(), (change.action, [0, 0]));
    }
    let mut rest = Vec::new();
    for change in changes.iter().filter(|c| c.kind >= LayoutKind::Board) {
        let shelf = change.shelf_sn.as_deref().and_then(|shelf| whole.get_mut(shelf));
        match shelf {
            Some((action, counts))
                if *action == change.action && *action != LayoutAction::Changed =>
            {
                counts[usize::from(change.kind == LayoutKind::Location)] += 1;
            }
            _ => rest.push(change),
        }
    }
    for change in changes.iter().filter(|change| change.kind <= LayoutKind::Shelf) {
        let with = match whole.get(change.name.as_str()) {
            Some((_, [boards, locations]))
                if change.kind == LayoutKind::Shelf && boards + locations > 0 =>
            {
                let boards = counted(*boards, "board");
                format!(" with {boards} and {}", counted(*locations, "location"))
            }
            _ => String::new(),
        };
        let _ = writeln!(text, "{}{with}", line(change));
    }
    for change in rest {
        let _ = writeln!(text, "{}", line(change));
    }
    let number = |action| changes.iter().filter(|change| change.action == action).count();
    let _ = writeln!(
        text,
        "{} added, {} changed, {} removed{}",
        number(LayoutAction::Added),
        number(LayoutAction::Changed),
        number(LayoutAction::Removed),
        if dry_run { " (dry run: nothing was changed)" } else { "" },
    );
    let _ = writeln!(
        text,
        "{} layout: {} of furniture, {}, {}, {}",
        if dry_run { "resulting" } else { "current" },
        counted(layout.furniture.len(), "piece"),
        counted(layout.shelves.len(), "shelf"),
        counted(layout.boards.len(), "board"),
        counted(layout.locations.len(), "location"),
    );
    text
}

fn line(change: &LayoutChange) -> String {
    let action = match change.action {
        LayoutAction::Added => "added",
        LayoutAction::Changed => "changed",
        LayoutAction::Removed => "removed",
    };
    let kind = match change.kind {
        LayoutKind::Furniture => "furniture",
        LayoutKind::Shelf => "shelf",
        LayoutKind::Board => "board",
        LayoutKind::Location => "location",
    };
    let mut line = format!("{action:<7} {kind} {}", printable(&change.name));
    if let Some(shelf) = &change.shelf_sn {
        let _ = write!(line, " on shelf {}", printable(shelf));
    }
    if !change.columns.is_empty() {
        let _ = write!(line, ": {}", change.columns.join(", "));
    }
    line
}

fn counted(number: usize, thing: &str) -> String {
    match (number, thing) {
        (1, _) => format!("1 {thing}"),
        (_, "shelf") => format!("{number} shelves"),
        _ => format!("{number} {thing}s"),
    }
}
