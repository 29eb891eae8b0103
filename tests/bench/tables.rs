//! What is printed: Markdown tables, to be pasted.

use std::fmt::Display;

/// One MiB as a number to divide by.
pub const MIB: f64 = 1024.0 * 1024.0;

/// Prints a table with a title above.
pub fn print(title: &str, head: &[&str], rows: &[Vec<String>]) {
    println!("\n### {title}\n");
    println!("| {} |", head.join(" | "));
    println!("|{}", " --- |".repeat(head.len()));
    for row in rows {
        println!("| {} |", row.join(" | "));
    }
}

/// Bytes as MiB with one decimal.
pub fn mib(bytes: u64) -> String {
    format!("{:.1}", float(bytes) / MIB)
}

/// Exact up to 8 PiB, which no measurement reaches.
#[allow(clippy::cast_precision_loss, reason = "see above")]
pub fn float(bytes: u64) -> f64 {
    bytes as f64
}

/// What is promised, and what was found.
#[derive(Default)]
pub struct Bars(Vec<Vec<String>>);

impl Bars {
    /// A value that may be `most`; none if it could not be measured.
    pub fn at_most(&mut self, what: impl Display, unit: &str, most: f64, measured: Option<f64>) {
        let met = measured.map(|measured| measured <= most);
        self.note(&what, &format!("≤ {most}{unit}"), unit, measured, met);
    }

    /// A value that has to be `least`; none if it could not be measured.
    pub fn at_least(&mut self, what: impl Display, unit: &str, least: f64, measured: Option<f64>) {
        let met = measured.map(|measured| measured >= least);
        self.note(&what, &format!("≥ {least}{unit}"), unit, measured, met);
    }

    fn note(
        &mut self,
        what: &dyn Display,
        required: &str,
        unit: &str,
        measured: Option<f64>,
        met: Option<bool>,
    ) {
        self.0.push(vec![
            what.to_string(),
            required.to_owned(),
            measured.map_or_else(|| "–".to_owned(), |value| format!("{value:.2}{unit}")),
            match met {
                Some(true) => "yes".to_owned(),
                Some(false) => "**no**".to_owned(),
                None => "not measured".to_owned(),
            },
        ]);
    }

    /// Prints all of them.
    pub fn print(&self) {
        print("Bars", &["bar", "required", "measured", "met"], &self.0);
    }
}
