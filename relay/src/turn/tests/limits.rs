//! What one user may use, where the state machine decides it.

use std::num::{NonZeroU32, NonZeroU64};

use super::*;
use crate::policy::{Limits, Quota};

fn limited(limits: Limits) -> (World, Client) {
    let mut world = World::new();
    world.quota = Quota::new(limits);
    let client = world.allocated();
    (world, client)
}

fn permit(world: &mut World, client: &Client, peers: &[&str]) -> Option<u16> {
    let peers = peers.iter().map(|peer| world.peer(peer)).collect();
    world.code(client, Method::CREATE_PERMISSION, peers)
}

#[test]
fn new_peers_past_the_rate_are_a_508_and_old_ones_cost_nothing() {
    let (mut world, client) = limited(Limits { new_peers: NonZeroU64::new(2), ..Limits::default() });
    assert_eq!(permit(&mut world, &client, &["8.8.8.8:1", "1.1.1.1:1"]), None);
    assert_eq!(permit(&mut world, &client, &["8.8.4.4:1"]), Some(508));
    assert_eq!(world.bind_code(&client, 0x4000, "8.8.4.4:1"), Some(508));
    assert_eq!(permit(&mut world, &client, &["8.8.8.8:1", "1.1.1.1:2"]), None);
    assert_eq!(world.bind_code(&client, 0x4000, "8.8.8.8:7"), None);
    world.advance(SECOND);
    assert_eq!(world.bind_code(&client, 0x4001, "8.8.4.4:1"), None);
}

#[test]
fn an_allocation_has_no_more_peers_than_it_may() {
    let (mut world, client) = limited(Limits { peers: NonZeroU32::new(2), ..Limits::default() });
    assert_eq!(permit(&mut world, &client, &["8.8.8.8:1", "1.1.1.1:1", "8.8.4.4:1"]), Some(508));
    assert_eq!(permit(&mut world, &client, &["8.8.8.8:1", "1.1.1.1:1"]), None);
    assert_eq!(world.bind_code(&client, 0x4000, "8.8.4.4:1"), Some(508));
    // Permissions end, and with them what they counted.
    world.advance(300 * SECOND);
    assert_eq!(world.bind_code(&client, 0x4000, "8.8.4.4:1"), None);
}

#[test]
fn the_quota_counts_all_allocations_of_a_user() {
    let (mut world, _) = limited(Limits { quota: NonZeroU32::new(1), ..Limits::default() });
    let second = world.client("192.0.2.7:4001");
    assert_eq!(world.code(&second, Method::ALLOCATE, udp()), Some(486));
}
