//! Query parameters: what is not known is refused by name, so that a misspelt filter does not silently match everything.

use crate::problem::{Problem, ProblemKind};
use axum::extract::{FromRequestParts, Query};
use axum::http::Uri;
use axum::http::request::Parts;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::error::Error;

/// The query string as `T`, which denies unknown fields.
pub(crate) struct Parameters<T>(pub(crate) T);

/// For addresses that take no parameters.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NoParameters {}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Parameters<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        Ok(Self(parse(&parts.uri)?))
    }
}

/// The same, with all values of the parameter `tag`, which may be there several times.
pub(crate) struct Repeated<T>(pub(crate) Vec<String>, pub(crate) Parameters<T>);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Repeated<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        // Serde takes each parameter once: it sees the first tag and refuses what is not known.
        let pairs = parts.uri.query().unwrap_or_default().split('&');
        let (tags, mut others): (Vec<&str>, Vec<&str>) = pairs.partition(|pair| pair.split('=').next() == Some("tag"));
        others.extend(tags.first());
        let with = |pairs: &[&str]| format!("/?{}", pairs.join("&")).parse::<Uri>();
        let (tags, others) = (with(&tags), with(&others));
        let tags: Vec<(String, String)> = parse(&tags.map_err(|error| Problem::internal(&error))?)?;
        let others = parse(&others.map_err(|error| Problem::internal(&error))?)?;
        Ok(Self(tags.into_iter().map(|(_, value)| value).collect(), Parameters(others)))
    }
}

fn parse<T: DeserializeOwned>(uri: &Uri) -> Result<T, Problem> {
    match Query::<T>::try_from_uri(uri) {
        Ok(Query(parameters)) => Ok(parameters),
        Err(rejection) => Err(refusal(&rejection)),
    }
}

fn refusal(rejection: &dyn Error) -> Problem {
    // The innermost source is serde's own sentence; the outer ones name the machinery.
    let mut cause: &dyn Error = rejection;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let sentence = cause
        .to_string()
        .replace("unknown field", "unknown parameter")
        .replace("duplicate field", "repeated parameter");
    let problem =
        Problem::new(ProblemKind::InvalidParameter, sentence.replace("there are no fields", "this address takes none"));
    match suggestion(&sentence) {
        Some(name) => problem.remedy(format!("did you mean `{name}`?")),
        None => problem.remedy("leave the parameter out or correct it; docs/api.md lists what each address takes"),
    }
}

/// From serde's "unknown … `x`, expected one of `a`, `b`": the known name nearest to `x`, if any is near.
fn suggestion(sentence: &str) -> Option<String> {
    let mut quoted = sentence.split('`').skip(1).step_by(2);
    let wrong = quoted.next()?;
    let (distance, name) = quoted.map(|known| (strsim::damerau_levenshtein(wrong, known), known)).min()?;
    (distance <= 2 || distance * 3 <= name.len()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_known_name_is_suggested() {
        let sentence = "unknown parameter `partty`, expected one of `from`, `to`, `party`";
        assert_eq!(suggestion(sentence).as_deref(), Some("party"));
        assert_eq!(suggestion("unknown parameter `frobnicate`, expected one of `from`, `to`, `party`"), None);
        assert_eq!(suggestion("invalid digit found in string"), None);
    }
}
