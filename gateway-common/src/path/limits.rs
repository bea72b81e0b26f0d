//! What a site may use of the tables. Whoever takes counts first and gives back what is refused, so
//! that no limit is passed; the sweep gives back what it frees.
//!
//! The last eighth of the flow table is for sites that have less than their share of it: a site that floods fills the
//! rest, and never keeps another from working. No live flow is evicted.
//!
//! The last quarter of what a site may have is for what it opens itself: whoever may call it, from another site or from the center,
//! and floods it, does not keep it from the center.

use crate::abi::event::KINDS;
use crate::abi::flow::{halves, pair};
use crate::abi::interface::Settings;
use crate::abi::usage::{TOTAL, word};
use crate::drop::DropReason;
use crate::tables::Tables;
use crate::tables::words::Words;

/// Events that the controller hears in a second of one site, of each kind. A CPU tells of many more: a site that scans has used
/// up its own.
pub const SITE_EVENTS_PER_S: u32 = 64;

/// The last part of the flow table, for sites below their share: one in so many.
const RESERVE: u32 = 8;
/// The last part of each limit of a site, for flows that it opens itself: one in so many.
const OWN: u32 = 4;
/// `-1` to [`Words::add`].
const LESS: u64 = u64::MAX;

/// What others' calls may take of a site's limit.
#[inline(always)]
const fn for_calls(max: u32) -> u32 {
    max - max / OWN
}

/// What a flow may take of it.
#[inline(always)]
const fn part(max: u32, is_call: bool) -> u32 {
    if is_call { for_calls(max) } else { max }
}

/// Counts one more new flow of this second that a site opens.
///
/// # Errors
/// [`DropReason::SiteFlowRate`].
#[inline(always)]
pub fn rate<T: Tables>(tables: &T, site: u32, settings: &Settings, now_s: u32) -> Result<(), DropReason> {
    rate_below(tables, site, settings.site_new_flows_per_s, now_s)
}

/// The same of a flow that another opens to it.
///
/// # Errors
/// [`DropReason::SiteFlowRate`].
#[inline(always)]
pub fn rate_of_calls<T: Tables>(
    tables: &T,
    site: u32,
    settings: &Settings,
    now_s: u32,
) -> Result<(), DropReason> {
    rate_below(tables, site, for_calls(settings.site_new_flows_per_s), now_s)
}

#[inline(always)]
fn rate_below<T: Tables>(tables: &T, site: u32, max: u32, now_s: u32) -> Result<(), DropReason> {
    let usage = tables.usage(site).ok_or(DropReason::UnknownSite)?;
    count_in_second(usage, word::RATE_OR_SITES, max, now_s)
        .then_some(())
        .ok_or(DropReason::SiteFlowRate)
}

/// Counts an answer to a site in place of a packet of its own (RFC 1812 section 4.3.2.8: a rate that the operator sets).
///
/// # Errors
/// `reason`, if the site had as many in this second as it may.
#[inline(always)]
pub fn answer<T: Tables>(
    tables: &T,
    site: u32,
    settings: &Settings,
    now_s: u32,
    reason: DropReason,
) -> Result<(), DropReason> {
    let usage = tables.usage(site).ok_or(reason)?;
    count_in_second(usage, word::ANSWERS, settings.site_answers_per_s, now_s)
        .then_some(())
        .ok_or(reason)
}

/// Counts an event of a site. Whether the controller is to hear of it: of each kind a site has its share, so that one site's
/// packets do not keep from it what others need, nor from the log what others did.
#[inline(always)]
pub fn event<T: Tables>(tables: &T, site: u32, kind: u32) -> bool {
    if kind >= KINDS {
        return false;
    }
    let Some(usage) = tables.usage(site) else {
        return true;
    };
    count_in_second(
        usage,
        word::EVENTS + kind as usize,
        SITE_EVENTS_PER_S,
        tables.now_s(),
    )
}

/// Counts one more of `what` in this second, if there were fewer than `max`; whether there were.
#[inline(always)]
fn count_in_second<V: Words>(usage: V, what: usize, max: u32, now_s: u32) -> bool {
    let found = usage.load(what);
    let (second, count) = halves(found);
    let count = if second == now_s { count } else { 0 };
    if count >= max {
        return false;
    }
    // If another CPU counts at the same moment, one of the two goes uncounted: a rate need not be exact.
    let _ = usage.compare_exchange(what, found, pair(now_s, count + 1));
    true
}

/// Counts a flow that is about to be put into the table, and that the site opens or, if it is a call, another.
///
/// # Errors
/// [`DropReason::SiteFlows`], [`DropReason::FlowTableFull`] or [`DropReason::SiteShare`]; it is not counted then.
#[inline(always)]
pub fn take_flow<T: Tables>(
    tables: &T,
    site: u32,
    settings: &Settings,
    is_call: bool,
) -> Result<(), DropReason> {
    let site_max = part(settings.site_flows_max, is_call);
    let usage = tables.usage(site).ok_or(DropReason::UnknownSite)?;
    let total = tables.usage(TOTAL).ok_or(DropReason::Internal)?;
    let of_site = usage.add(word::FLOWS, 1);
    let of_all = total.add(word::FLOWS, 1);
    if of_site == 0 {
        total.add(word::RATE_OR_SITES, 1);
    }
    let limit = u64::from(settings.flows_max);
    let refused = if of_site >= u64::from(site_max) {
        Some(DropReason::SiteFlows)
    } else if of_all >= limit {
        Some(DropReason::FlowTableFull)
    } else if of_all >= limit - limit / u64::from(RESERVE)
        && of_site.wrapping_mul(total.load(word::RATE_OR_SITES)) >= limit
    {
        Some(DropReason::SiteShare)
    } else {
        None
    };
    match refused {
        None => Ok(()),
        Some(reason) => {
            give_flow(tables, site);
            Err(reason)
        }
    }
}

/// Counts a flow less.
#[inline(always)]
pub fn give_flow<T: Tables>(tables: &T, site: u32) {
    let (Some(usage), Some(total)) = (tables.usage(site), tables.usage(TOTAL)) else {
        return;
    };
    give(usage, total, word::FLOWS);
}

/// Counts one less of a site's and of the sum, and a site less if it has no flow left.
#[inline(always)]
pub fn give<V: Words>(usage: V, total: V, what: usize) {
    total.add(what, LESS);
    if usage.add(what, LESS) == 1 && what == word::FLOWS {
        total.add(word::RATE_OR_SITES, LESS);
    }
}

/// Counts a half-open TCP connection, which the site opens or, if it is a call, another.
///
/// # Errors
/// [`DropReason::SiteHalfOpen`]; it is not counted then.
#[inline(always)]
pub fn take_half_open<T: Tables>(
    tables: &T,
    site: u32,
    settings: &Settings,
    is_call: bool,
) -> Result<(), DropReason> {
    take(
        tables,
        site,
        word::HALF_OPEN,
        part(settings.site_half_open_max, is_call),
        DropReason::SiteHalfOpen,
    )
}

/// Counts a mapping.
///
/// # Errors
/// [`DropReason::SiteMappings`]; it is not counted then.
#[inline(always)]
pub fn take_mapping<T: Tables>(tables: &T, site: u32, settings: &Settings) -> Result<(), DropReason> {
    take(
        tables,
        site,
        word::MAPPINGS,
        settings.site_mappings_max,
        DropReason::SiteMappings,
    )
}

#[inline(always)]
fn take<T: Tables>(
    tables: &T,
    site: u32,
    what: usize,
    max: u32,
    reason: DropReason,
) -> Result<(), DropReason> {
    let usage = tables.usage(site).ok_or(DropReason::UnknownSite)?;
    let total = tables.usage(TOTAL).ok_or(DropReason::Internal)?;
    total.add(what, 1);
    if usage.add(what, 1) >= u64::from(max) {
        give(usage, total, what);
        return Err(reason);
    }
    Ok(())
}

/// Counts a half-open connection less.
#[inline(always)]
pub fn give_half_open<T: Tables>(tables: &T, site: u32) {
    give_one(tables, site, word::HALF_OPEN);
}

/// Counts a mapping less.
#[inline(always)]
pub fn give_mapping<T: Tables>(tables: &T, site: u32) {
    give_one(tables, site, word::MAPPINGS);
}

#[inline(always)]
fn give_one<T: Tables>(tables: &T, site: u32, what: usize) {
    if let (Some(usage), Some(total)) = (tables.usage(site), tables.usage(TOTAL)) {
        give(usage, total, what);
    }
}
