//! Our block in a crontab. Everybody else's lines are kept byte for byte.
//!
//! Variables hold for all lines behind them, so the block sets none: it names the program by its absolute path,
//! and the program finds GitLab's commands by itself.

use super::WAIT;
use super::calendar::Calendar;
use crate::job::Job;

/// What the first and the last line of the block begin with.
const BEGIN: &str = "# >>> gitlab-pi-backup";
const END: &str = "# <<< gitlab-pi-backup";
/// What the first line says to people.
const WHOSE: &str = ": written by `gitlab-pi-backup schedule install`, taken away by `gitlab-pi-backup schedule remove`";
/// At its end: the line before the block had no line end, and is to get back to that.
const JOINED: &str = " (the line above had no end)";

/// A crontab, ours and theirs apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Crontab {
    /// Other people's lines.
    pub(super) others: Vec<u8>,
    /// The lines of our block without its marks.
    pub(super) ours: Vec<String>,
    /// Whether there is any mark of ours.
    pub(super) is_marked: bool,
    /// Other people's lines that start a job, too.
    pub(super) by_hand: Vec<(Job, String)>,
}

impl Crontab {
    /// Takes our block out, however often it is there and whatever became of it: where its end is missing it ends
    /// with the first line that is not ours, and what somebody else wrote into it stays.
    pub(super) fn parse(text: &[u8]) -> Crontab {
        let lines: Vec<_> = text.split_inclusive(|byte| *byte == b'\n').collect();
        let shown: Vec<_> = lines
            .iter()
            .map(|line| String::from_utf8_lossy(line))
            .collect();
        let shown: Vec<_> = shown.iter().map(|line| line.trim()).collect();
        let mut crontab = Crontab::default();
        let mut inside = false;
        for (number, (line, shown_line)) in lines.iter().zip(&shown).enumerate() {
            if shown_line.starts_with(BEGIN) {
                (inside, crontab.is_marked) = (true, true);
                if shown_line.ends_with(JOINED) && crontab.others.ends_with(b"\n") {
                    crontab.others.pop();
                }
            } else if shown_line.starts_with(END) {
                (inside, crontab.is_marked) = (false, true);
            } else if inside && is_ours(shown_line) {
                crontab.ours.push((*shown_line).to_owned());
            } else {
                let marks = shown[number..].iter().copied();
                let mut marks =
                    marks.filter(|line| line.starts_with(BEGIN) || line.starts_with(END));
                inside = inside && marks.next().is_some_and(|mark| mark.starts_with(END));
                if let Some(job) = starts_by_hand(shown_line) {
                    crontab.by_hand.push((job, (*shown_line).to_owned()));
                }
                // Somebody wrote behind the block, so the line before it needs an end after all.
                if !crontab.others.is_empty() && !crontab.others.ends_with(b"\n") {
                    crontab.others.push(b'\n');
                }
                crontab.others.extend_from_slice(line);
            }
        }
        crontab
    }

    /// With one block of these lines, at its end.
    pub(super) fn with(&self, block: &[String]) -> Vec<u8> {
        let mut text = self.others.clone();
        let joined = !text.is_empty() && !text.ends_with(b"\n");
        if joined {
            text.push(b'\n');
        }
        let note = if joined { JOINED } else { "" };
        text.extend_from_slice(format!("{BEGIN}{WHOSE}{note}\n").as_bytes());
        for line in block {
            text.extend_from_slice(format!("{line}\n").as_bytes());
        }
        text.extend_from_slice(format!("{END}\n").as_bytes());
        text
    }
}

/// The lines of our block: when, and what.
pub(super) fn lines(
    times: &[String],
    program: &str,
    config: Option<&str>,
    arguments: &str,
) -> Vec<String> {
    let mut command = quoted(program);
    if let Some(config) = config {
        command = format!("{command} -c {}", quoted(config));
    }
    let line = |time: &String| format!("{time} {command} {arguments}");
    times.iter().map(line).collect()
}

/// For the shell that cron starts, and for cron, to which a percent sign ends the command.
fn quoted(path: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@%:,=".contains(c);
    let text = if path.chars().all(is_plain) {
        path.to_owned()
    } else {
        format!("'{}'", path.replace('\'', r"'\''"))
    };
    text.replace('%', r"\%")
}

/// When a line starts something, and what: none for variables, remarks and what cron would not take either.
pub(super) fn understand(line: &str) -> Option<(Calendar, &str)> {
    let fields = if line.starts_with('@') { 1 } else { 5 };
    let mut rest = line.trim_start();
    let mut when = Vec::new();
    for _ in 0..fields {
        let (field, behind) = rest.split_once([' ', '\t'])?;
        when.push(field);
        rest = behind.trim_start();
    }
    let calendar = Calendar::parse(&when.join(" ")).ok()?;
    Some((calendar, rest))
}

/// The program that a command begins with, as [`lines`] writes it.
pub(super) fn program(command: &str) -> String {
    let command = command.replace(r"\%", "%");
    let mut program = String::new();
    let mut quoted = false;
    let mut signs = command.chars();
    while let Some(sign) = signs.next() {
        match sign {
            '\'' => quoted = !quoted,
            '\\' if !quoted => program.extend(signs.next()),
            ' ' | '\t' if !quoted => break,
            sign => program.push(sign),
        }
    }
    program
}

/// The job that a command of our block starts.
pub(super) fn job_of(command: &str) -> Option<Job> {
    let command = command.strip_suffix(WAIT).unwrap_or(command);
    let ends = |job: &Job| command.ends_with(&format!(" {}", job.command()));
    Job::ALL.into_iter().find(ends)
}

fn is_ours(line: &str) -> bool {
    understand(line).is_some_and(|(_, command)| job_of(command).is_some())
}

fn starts_by_hand(line: &str) -> Option<Job> {
    let (_, command) = understand(line)?;
    let words: Vec<_> = command.split_ascii_whitespace().collect();
    let is_program = |word: &&str| word.trim_matches(['\'', '"']).ends_with("gitlab-pi-backup");
    let behind = &words[words.iter().position(is_program)? + 1..];
    Job::ALL.into_iter().find(|job| {
        let own: Vec<_> = job.command().split(' ').collect();
        behind.windows(own.len()).any(|words| words == own)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHERS: [&[u8]; 7] = [
        b"",
        b"# nothing but this\n",
        b"MAILTO=root\n\n0 1 * * * /usr/bin/other\n",
        b"0 1 * * * /usr/bin/other",
        b"MAILTO=root\r\n0 1 * * * other\r\n",
        b"# \xff\xfe not UTF-8\n@reboot x\n",
        b"\n\n\n",
    ];

    fn block() -> Vec<String> {
        lines(
            &["0 4 * * 3,6".to_owned()],
            "/usr/bin/gitlab-pi-backup",
            None,
            "run",
        )
    }

    #[test]
    fn other_peoples_lines_come_back_byte_for_byte() {
        for others in OTHERS {
            let text = Crontab::parse(others).with(&block());
            let again = Crontab::parse(&text);
            assert_eq!(again.others, others);
            assert_eq!(again.ours, block());
            assert_eq!(again.with(&block()), text, "a second time changes nothing");
            // Lines that were written behind the block stay behind theirs.
            let behind = [&text[..], b"5 5 * * * later\n"].concat();
            let behind = Crontab::parse(&behind);
            assert!(behind.others.ends_with(b"5 5 * * * later\n"));
            assert!(behind.others.starts_with(others));
        }
    }

    #[test]
    fn whatever_became_of_the_block_there_is_one_afterwards() {
        let whole = String::from_utf8(Crontab::default().with(&block())).expect("text");
        let lines: Vec<_> = whole.lines().collect();
        let [begin, ours, end] = lines[..] else {
            panic!("{whole}")
        };
        let mine = "1 1 * * * mine";
        for (text, others) in [
            (format!("{whole}{whole}"), String::new()),
            (format!("{begin}\n{ours}\n{mine}\n"), format!("{mine}\n")),
            (
                format!("{begin}\n{mine}\n{ours}\n{end}\n"),
                format!("{mine}\n"),
            ),
            (format!("{begin}\n{mine}\n{whole}"), format!("{mine}\n")),
            (
                format!("{mine}\n{end}\n{mine}\n"),
                format!("{mine}\n{mine}\n"),
            ),
            (format!("{begin}\n"), String::new()),
            (whole.replace('\n', "\r\n"), String::new()),
            (
                format!("{begin}\nMAILTO=x\n{end}\n"),
                "MAILTO=x\n".to_owned(),
            ),
        ] {
            let crontab = Crontab::parse(text.as_bytes());
            assert_eq!(String::from_utf8_lossy(&crontab.others), others, "{text}");
            assert!(crontab.is_marked);
            let again = String::from_utf8(crontab.with(&block())).expect("text");
            assert_eq!(again.matches(BEGIN).count(), 1, "{again}");
            assert_eq!(again.matches(END).count(), 1, "{again}");
        }
    }

    #[test]
    fn a_line_by_hand_is_seen() {
        let text = b"0 4 * * 3,6 /usr/local/bin/gitlab-pi-backup run\n\
            0 12 1 * * /usr/local/bin/gitlab-pi-backup rehearse\n\
            #0 4 * * * gitlab-pi-backup run\n";
        let crontab = Crontab::parse(text);
        assert_eq!(crontab.by_hand.len(), 1, "{crontab:?}");
        assert!(!crontab.is_marked && crontab.ours.is_empty());
        let text = b"0 5 * * * gitlab-pi-backup -c /x.toml export projects --wait 1h\n\
            0 5 * * * gitlab-pi-backup export projects-of-mine\n";
        let by_hand = Crontab::parse(text).by_hand;
        assert!(
            matches!(&by_hand[..], [(Job::Projects, line)] if line.ends_with("1h")),
            "{by_hand:?}"
        );
    }

    #[test]
    fn lines_of_each_job_are_ours() {
        for (command, job) in [
            ("/x run", Some(Job::Run)),
            ("/x -c /y run --wait 12h", Some(Job::Run)),
            ("/x export projects", Some(Job::Projects)),
            ("/x export projects --wait 12h", Some(Job::Projects)),
            ("/x run --wait 3h", None),
            ("/x rehearse", None),
        ] {
            assert_eq!(job_of(command), job, "{command}");
        }
    }

    #[test]
    fn a_path_survives_cron_and_its_shell() {
        for (path, written) in [
            ("/usr/bin/gitlab-pi-backup", "/usr/bin/gitlab-pi-backup"),
            ("/a b/x", "'/a b/x'"),
            ("/50%/x", r"/50\%/x"),
            ("/it's 5%/x", r"'/it'\''s 5\%/x'"),
        ] {
            assert_eq!(quoted(path), written);
            let line = &lines(&["0 4 * * *".to_owned()], path, Some("/c d.toml"), "run")[0];
            let (_, command) = understand(line).expect(line);
            assert_eq!(program(command), path);
            assert!(line.ends_with(" -c '/c d.toml' run"), "{line}");
        }
    }
}
