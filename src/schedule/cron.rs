//! The block in root's crontab: written and taken out by `crontab` itself.

use std::time::Duration;

use super::crontab::{Crontab, lines};
use super::installed::{has_cron, read};
use super::program::{Ended, run};
use super::{CRONTAB, Change, Order, Report};

const NOT_LONG: Duration = Duration::from_secs(10);

fn block(order: &Order) -> Result<Vec<String>, String> {
    let mut block = Vec::new();
    for start in &order.starts {
        let (times, arguments) = (start.calendar.to_cron()?, order.arguments(start.job));
        let config = order.config.as_deref();
        block.extend(lines(&times, &order.program, config, &arguments));
    }
    Ok(block)
}

fn text(block: &[String]) -> String {
    String::from_utf8_lossy(&Crontab::default().with(block)).into_owned()
}

/// What would be written.
pub(super) fn show(order: &Order, report: &mut Report) -> Result<(), String> {
    report.file(CRONTAB, Some(text(&block(order)?)), Change::Planned);
    note_what_cron_lacks(order, report);
    Ok(())
}

/// Writes the one block.
pub(super) fn install(order: &Order, report: &mut Report) -> Result<(), String> {
    if !has_cron() {
        return Err(
            "no `crontab` is on this machine\n  apt install cron, or use systemd".to_owned(),
        );
    }
    let block = block(order)?;
    let before = read()?;
    let crontab = Crontab::parse(&before);
    let wanted = crontab.with(&block);
    let change = if wanted == before {
        Change::Unchanged
    } else {
        write(&wanted)?;
        let there = Crontab::parse(&read()?);
        if there.ours != block {
            return Err(
                "root's crontab was written, but does not hold the block now\n  \
                 look at it: crontab -l"
                    .to_owned(),
            );
        }
        Change::Written
    };
    report.file(CRONTAB, Some(text(&block)), change);
    for (job, line) in &crontab.by_hand {
        let noun = job.noun();
        report.notes.push(format!(
            "a line that somebody wrote into root's crontab starts {noun}s, too; take it out (crontab -e): {line}"
        ));
    }
    note_what_cron_lacks(order, report);
    Ok(())
}

fn note_what_cron_lacks(order: &Order, report: &mut Report) {
    if !order.credentials.is_empty() {
        report.notes.push(
            "cron hands over no credentials: their secrets must stand in the configuration or its files"
                .to_owned(),
        );
    }
}

/// Takes the block out. `note`: what to say if there was one.
pub(super) fn remove(report: &mut Report, note: &str) -> Result<(), String> {
    let before = read()?;
    let crontab = Crontab::parse(&before);
    for (job, line) in &crontab.by_hand {
        let noun = job.noun();
        report.notes.push(format!(
            "a line that somebody wrote into root's crontab starts {noun}s, and is left as it is: {line}"
        ));
    }
    if !crontab.is_marked {
        return Ok(());
    }
    if crontab.others.is_empty() {
        check(&run("crontab", &["-r"], None, NOT_LONG)?)?;
    } else {
        give_back(crontab.others)?;
    }
    report.file(CRONTAB, None, Change::Removed);
    if !note.is_empty() {
        report.notes.push(note.to_owned());
    }
    Ok(())
}

/// As it was before the block came. Debian's cron does not take a last line without an end, although it shows one that
/// got there by another way.
fn give_back(mut others: Vec<u8>) -> Result<(), String> {
    match write(&others) {
        Err(_) if !others.ends_with(b"\n") => {
            others.push(b'\n');
            write(&others)
        }
        written => written,
    }
}

fn write(text: &[u8]) -> Result<(), String> {
    check(&run("crontab", &["-"], Some(text), NOT_LONG)?)
}

fn check(ended: &Ended) -> Result<(), String> {
    if ended.status.success() {
        return Ok(());
    }
    Err(format!("changing root's crontab: {}", ended.why()))
}
