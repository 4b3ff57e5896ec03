//! Which lists hold every recording that can match, and how they are walked.
//!
//! Constraints: every source is walked in one direction, newest first, by [`Source::seek`]. It may propose too much, never too
//! little.

use crate::CatalogError;
use crate::condition::{Condition, Test};
use crate::database::{Family, List, View};
use crate::keys::{PART_BYTES_MIN, Term, ending_prefix, field_kind, parse_text, text_key, text_of_part};
use crate::order::TimeKey;
use crate::{Span, TextField, TextMatch};
use sidetone_model::CaptureTime;
use std::collections::BTreeSet;

/// How much may be done for an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Limits {
    /// Work for a page, and for a count; see [`Work`].
    pub(crate) page_work: u64,
    pub(crate) count_work: u64,
    /// So many different texts are followed one by one; what more have is looked for in all recordings, of which then
    /// many match.
    pub(crate) texts: usize,
    /// Entries looked through to find these.
    pub(crate) part_entries: usize,
    /// A list of fewer postings is walked alone.
    pub(crate) short_list: usize,
}

impl Limits {
    pub(crate) const DEFAULT: Self =
        Self { page_work: 2_500, count_work: 50_000, texts: 128, part_entries: 4096, short_list: 64 };
}

/// Postings that are passed one by one before it is cheaper to seek.
const STEPS_BEFORE_SEEK: usize = 16;

/// Effort that is left, in units of about a microsecond.
pub(crate) struct Work(u64);

const STEP_WORK: u64 = 1;
const SEEK_WORK: u64 = 20;

impl Work {
    pub(crate) fn new(units: u64) -> Self {
        Self(units)
    }

    pub(crate) fn spend(&mut self, units: u64) {
        self.0 = self.0.saturating_sub(units);
    }

    /// Whether preparing for so much leaves half of the work for what comes then.
    fn is_enough_for(&self, units: u64) -> bool {
        units <= self.0 / 2
    }

    pub(crate) fn is_spent(&self) -> bool {
        self.0 == 0
    }
}

/// Start times that a condition leaves, both ends included; nothing when `oldest` is later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Bounds {
    pub(crate) oldest: CaptureTime,
    pub(crate) newest: CaptureTime,
}

impl Bounds {
    const ALL: Self = Self { oldest: CaptureTime(0), newest: CaptureTime(u64::MAX) };
    const NONE: Self = Self { oldest: CaptureTime(u64::MAX), newest: CaptureTime(0) };

    pub(crate) fn of(condition: &Condition) -> Self {
        match condition {
            Condition::All(all) => all.iter().map(Self::of).fold(Self::ALL, |one, other| Self {
                oldest: one.oldest.max(other.oldest),
                newest: one.newest.min(other.newest),
            }),
            Condition::Any(any) => {
                any.iter().map(Self::of).filter(|bounds| !bounds.is_empty()).fold(Self::NONE, |one, other| Self {
                    oldest: one.oldest.min(other.oldest),
                    newest: one.newest.max(other.newest),
                })
            }
            Condition::Is(Test::Started(Span { from, to })) => match to.map(|to| to.0.checked_sub(1)) {
                Some(None) => Self::NONE,
                to => Self {
                    oldest: from.unwrap_or_default(),
                    newest: to.flatten().map_or(Self::ALL.newest, CaptureTime),
                },
            },
            Condition::Is(_) | Condition::IsNot(_) => Self::ALL,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.oldest > self.newest
    }
}

/// What seeking found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Found {
    At(TimeKey),
    /// Nothing more.
    End,
    /// Nothing before this; the work is used up.
    Paused(TimeKey),
}

/// Start times in order, each at least once, among them those of all recordings that can match.
pub(crate) enum Source<'a> {
    Listed(List<'a>),
    Union(Vec<(Source<'a>, Option<Found>)>),
    Join(Vec<Source<'a>>),
}

impl<'a> Source<'a> {
    /// `None` when every recording can match, as far as the indexes tell.
    pub(crate) fn plan(
        view: &'a View<'_>,
        condition: &Condition,
        start: TimeKey,
        limits: &'a Limits,
        work: &mut Work,
    ) -> Result<Option<Self>, CatalogError> {
        let planner = Planner { view, start, limits };
        planner.source(condition, work)
    }

    /// The first time at `from` or behind it. Seeks go on where the one before ended, or further behind.
    pub(crate) fn seek(&mut self, from: TimeKey, work: &mut Work) -> Result<Found, CatalogError> {
        match self {
            Self::Listed(list) => seek_list(list, from, work),
            Self::Union(parts) => {
                work.spend(1 + parts.len() as u64 / 16);
                let mut first = Found::End;
                for (part, head) in parts {
                    let found = match *head {
                        Some(Found::End) => Found::End,
                        Some(Found::At(at)) if at >= from => Found::At(at),
                        _ => part.seek(from, work)?,
                    };
                    *head = Some(found);
                    first = first.earlier(found);
                }
                Ok(first)
            }
            Self::Join(parts) => {
                let mut target = from;
                'again: loop {
                    for part in parts.iter_mut() {
                        match part.seek(target, work)? {
                            Found::At(at) if at == target => {}
                            Found::At(at) => {
                                target = at;
                                if work.is_spent() {
                                    return Ok(Found::Paused(target));
                                }
                                continue 'again;
                            }
                            end_or_paused => return Ok(end_or_paused),
                        }
                    }
                    return Ok(Found::At(target));
                }
            }
        }
    }
}

impl Found {
    fn earlier(self, other: Self) -> Self {
        match (self, other) {
            (Self::End, found) | (found, Self::End) => found,
            (Self::At(one) | Self::Paused(one), Self::At(two) | Self::Paused(two)) => {
                // At the same time, the pause: it is not known what its part has there.
                let other_first = two < one || (two == one && matches!(other, Self::Paused(_)));
                if other_first { other } else { self }
            }
        }
    }
}

fn seek_list(list: &mut List<'_>, from: TimeKey, work: &mut Work) -> Result<Found, CatalogError> {
    for step in 0.. {
        let Some((time, _)) = list.entry()? else { return Ok(Found::End) };
        let time = TimeKey::try_from(time).ok().ok_or_else(|| list.damaged("an index entry"))?;
        if time >= from {
            return Ok(Found::At(time));
        }
        if step < STEPS_BEFORE_SEEK {
            list.advance();
            work.spend(STEP_WORK);
        } else {
            list.seek(&from);
            work.spend(SEEK_WORK);
        }
    }
    unreachable!("the loop has no end")
}

/// How a condition is looked up.
enum Lookup {
    Term(Term),
    Texts(u8, TextMatch),
}

struct Planner<'a, 'v> {
    view: &'a View<'v>,
    start: TimeKey,
    limits: &'a Limits,
}

impl<'a> Planner<'a, '_> {
    fn source(&self, condition: &Condition, work: &mut Work) -> Result<Option<Source<'a>>, CatalogError> {
        match condition {
            Condition::Is(test) => match lookup(test) {
                Some(Lookup::Term(term)) => Ok(Some(self.list(&term, work))),
                Some(Lookup::Texts(kind, matching)) => self.texts(kind, &matching, work),
                None => Ok(None),
            },
            Condition::IsNot(_) => Ok(None),
            Condition::Any(any) => {
                let mut parts = Vec::with_capacity(any.len());
                for part in any {
                    let Some(source) = self.source(part, work)? else { return Ok(None) };
                    parts.push((source, None));
                }
                Ok(Some(Source::Union(parts)))
            }
            Condition::All(all) => self.join(all, work),
        }
    }

    /// Single lists first: when one of them is short, nothing else needs to be looked up.
    fn join(&self, all: &[Condition], work: &mut Work) -> Result<Option<Source<'a>>, CatalogError> {
        let mut parts = Vec::new();
        let mut others = Vec::new();
        for part in all {
            match part {
                Condition::Is(test) => match lookup(test) {
                    Some(Lookup::Term(term)) => {
                        if self.is_short(&term, work)? {
                            return Ok(Some(self.list(&term, work)));
                        }
                        parts.push(self.list(&term, work));
                    }
                    Some(Lookup::Texts(..)) => others.push(part),
                    None => {}
                },
                Condition::IsNot(_) => {}
                Condition::All(_) | Condition::Any(_) => others.push(part),
            }
        }
        for part in others {
            parts.extend(self.source(part, work)?);
        }
        Ok(match parts.len() {
            0 => None,
            1 => parts.pop(),
            _ => Some(Source::Join(parts)),
        })
    }

    fn list(&self, term: &Term, work: &mut Work) -> Source<'a> {
        work.spend(SEEK_WORK);
        Source::Listed(self.view.list_from(Family::Postings, term.as_bytes(), &self.start))
    }

    fn is_short(&self, term: &Term, work: &mut Work) -> Result<bool, CatalogError> {
        let mut list = self.view.list_from(Family::Postings, term.as_bytes(), &self.start);
        for _ in 0..self.limits.short_list {
            if list.entry()?.is_none() {
                return Ok(true);
            }
            list.advance();
            work.spend(STEP_WORK);
        }
        Ok(false)
    }

    /// The union over all texts that are so; `None` when they are too many.
    fn texts(&self, kind: u8, matching: &TextMatch, work: &mut Work) -> Result<Option<Source<'a>>, CatalogError> {
        let terms = match matching {
            TextMatch::Is(text) => Some(BTreeSet::from([Term::text(kind, text)])),
            TextMatch::StartsWith(part) => {
                self.matching(kind, matching, &[(Family::Texts, text_key(kind, part))], work)?
            }
            // Shorter parts are in no index.
            TextMatch::EndsWith(part) | TextMatch::Contains(part) | TextMatch::WordStartsWith(part)
                if part.len() < PART_BYTES_MIN =>
            {
                None
            }
            TextMatch::EndsWith(part) => {
                let lists = [(Family::Texts, text_key(kind, part)), (Family::Parts, ending_prefix(kind, part))];
                self.matching(kind, matching, &lists, work)?
            }
            TextMatch::Contains(part) | TextMatch::WordStartsWith(part) => {
                let key = text_key(kind, part);
                self.matching(kind, matching, &[(Family::Texts, key.clone()), (Family::Parts, key)], work)?
            }
        };
        let Some(terms) = terms.filter(|terms| work.is_enough_for(terms.len() as u64 * SEEK_WORK)) else {
            return Ok(None);
        };
        let parts = terms.iter().map(|term| (self.list(term, work), None));
        Ok(Some(Source::Union(parts.collect())))
    }

    /// The terms whose texts match, among those in `lists`: families, and what keys there begin with. `None` when they are
    /// too many.
    fn matching(
        &self,
        kind: u8,
        matching: &TextMatch,
        lists: &[(Family, Vec<u8>)],
        work: &mut Work,
    ) -> Result<Option<BTreeSet<Term>>, CatalogError> {
        let mut terms = BTreeSet::new();
        let mut entries = 0;
        for (family, prefix) in lists {
            let mut list = self.view.list(*family, prefix);
            while let Some((rest, _)) = list.entry()? {
                if entries == self.limits.part_entries || terms.len() > self.limits.texts {
                    return Ok(None);
                }
                let key = [prefix, rest].concat();
                let text = match family {
                    Family::Texts => parse_text(&key).map(str::to_owned),
                    _ => text_of_part(&key),
                };
                let text = text.ok_or_else(|| list.damaged("an index entry"))?;
                if matching.accepts(&text) {
                    terms.insert(Term::text(kind, &text));
                }
                entries += 1;
                list.advance();
                work.spend(STEP_WORK);
            }
            work.spend(SEEK_WORK);
        }
        Ok((terms.len() <= self.limits.texts).then_some(terms))
    }
}

/// `None` when no index helps.
fn lookup(test: &Test) -> Option<Lookup> {
    match test {
        Test::State(state) => Term::state(*state).map(Lookup::Term),
        Test::OnHold => Some(Lookup::Term(Term::on_hold())),
        Test::Tag { key, value: None } => Some(Lookup::Term(Term::tag_key(key))),
        Test::Tag { key, value: Some(value) } => Some(Lookup::Term(Term::tag(key, value))),
        Test::Text(TextField::CallId, TextMatch::Is(text)) => Some(Lookup::Term(Term::call_id(text))),
        Test::Text(field, TextMatch::Is(text)) => Some(Lookup::Term(Term::text(field_kind(*field)?, text))),
        Test::Text(field, matching) => Some(Lookup::Texts(field_kind(*field)?, matching.clone())),
        Test::Started(_) | Test::Duration(_) | Test::Codec(_) | Test::Quality(..) => None,
    }
}
