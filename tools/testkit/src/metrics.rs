//! Reads the Prometheus text format (exposition format 0.0.4), for sums and comparisons.

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;

#[derive(Clone, PartialEq, Debug)]
pub struct Sample {
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// All samples by metric name.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Metrics {
    samples: BTreeMap<String, Vec<Sample>>,
}

impl Metrics {
    /// # Errors
    /// When a line is not in the format.
    pub fn parse(text: &str) -> Result<Self> {
        let mut metrics = Self::default();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (name, sample) = parse_line(line).with_context(|| format!("metrics line `{line}`"))?;
            metrics.samples.entry(name).or_default().push(sample);
        }
        Ok(metrics)
    }

    pub fn samples(&self, name: &str) -> &[Sample] {
        self.samples.get(name).map_or(&[], Vec::as_slice)
    }

    /// Sum over all samples of `name` whose labels include `labels`.
    ///
    /// # Errors
    /// When there is no metric of that name: a check on a misspelt name must not pass.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        let Some(samples) = self.samples.get(name) else { bail!("the appliance has no metric {name}") };
        Ok(samples
            .iter()
            .filter(|sample| {
                labels.iter().all(|(key, value)| sample.labels.get(*key).is_some_and(|found| found == value))
            })
            .map(|sample| sample.value)
            .sum())
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.samples.keys().map(String::as_str)
    }
}

fn parse_line(line: &str) -> Result<(String, Sample)> {
    let name_end = line.find(['{', ' ']).context("no value")?;
    let (name, mut rest) = line.split_at(name_end);
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            rest = rest.trim_start_matches([',', ' ']);
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (key, after) = rest.split_once("=\"").context("a label without value")?;
            let mut value = String::new();
            let mut characters = after.char_indices();
            loop {
                match characters.next().context("a label's value without end")? {
                    (at, '"') => {
                        rest = &after[at + 1..];
                        break;
                    }
                    (_, '\\') => match characters.next().context("a label's value without end")?.1 {
                        'n' => value.push('\n'),
                        other => value.push(other),
                    },
                    (_, other) => value.push(other),
                }
            }
            labels.insert(key.to_owned(), value);
        }
    }
    let value = rest.split_whitespace().next().context("no value")?.parse().context("the value is no number")?;
    Ok((name.to_owned(), Sample { labels, value }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_by_label() {
        let text = "# HELP a b\na_total{port=\"eth0\",end=\"track\"} 5\na_total{port=\"et\\\"h}1\",end=\"track\"} 2\n\
                    a_total{port=\"eth0\",end=\"passed\"} 1\nb 1.5e3 1700000000\n";
        let metrics = Metrics::parse(text).unwrap();
        assert_eq!(metrics.sum("a_total", &[]).unwrap(), 8.0);
        assert_eq!(metrics.sum("a_total", &[("end", "track")]).unwrap(), 7.0);
        assert_eq!(metrics.sum("a_total", &[("port", "et\"h}1")]).unwrap(), 2.0);
        assert_eq!(metrics.sum("b", &[]).unwrap(), 1500.0);
        assert!(metrics.sum("c", &[]).is_err());
    }

    #[test]
    fn broken_lines_are_errors() {
        for line in ["a", "a{b=\"c} 1", "a{b} 1", "a x"] {
            assert!(Metrics::parse(line).is_err(), "{line}");
        }
    }
}
