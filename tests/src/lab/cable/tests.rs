//! A direction of a cable in virtual time, and a cable between hosts in real time.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::line::{Counted, HELD_BACK, Line, Rate, Traits};
use super::{Way, self_test};
use crate::clock;
use crate::lab::{Internet, Nat, tests::runs_elsewhere};

/// A frame that arrived: its number, when it came in, and when it came out.
type Arrival = (usize, Instant, Instant);

/// Lets frames of these lengths in, so long after each other, and time pass until all is over.
fn carry(traits: Traits, seed: u64, frames: &[(u64, usize)]) -> (Vec<Arrival>, Counted) {
    let mut line = Line::new(traits, seed);
    let mut now = clock::now();
    let (mut entered, mut arrived) = (Vec::new(), Vec::new());
    let mut pass = |line: &mut Line<usize>, entered: &[Instant], until: Option<Instant>| {
        while let Some(due) = line.poll_timeout().filter(|due| until.is_none_or(|until| *due <= until)) {
            line.handle_timeout(due);
            while let Some(number) = line.poll_frame(due) {
                arrived.push((number, entered[number], due));
            }
        }
    };
    for (pause, length) in frames {
        now += Duration::from_micros(*pause);
        pass(&mut line, &entered, Some(now));
        entered.push(now);
        line.handle_frame(now, *length, entered.len() - 1);
    }
    pass(&mut line, &entered, None);
    assert_eq!(line.inside(), 0, "nothing stays inside for ever");
    (arrived, line.counted())
}

fn frames() -> impl Strategy<Value = Vec<(u64, usize)>> {
    prop::collection::vec((0_u64..3000, 60_usize..1515), 1..200)
}

fn any_traits() -> impl Strategy<Value = Traits> {
    let ms = |most| (0_u64..most).prop_map(Duration::from_millis);
    let share = || prop_oneof![Just(0_u16), 0_u16..=1000];
    let rate = prop::option::of(
        (100_000_u64..50_000_000, 0_usize..20_000, 1514_usize..60_000)
            .prop_map(|(bits_per_second, burst, queue)| Rate { bits_per_second, burst, queue }),
    );
    (ms(200), ms(50), share(), share(), share(), rate).prop_map(
        |(delay, jitter, loss, reordering, duplication, rate)| Traits {
            delay,
            jitter,
            loss,
            reordering,
            duplication,
            rate,
        },
    )
}

proptest! {
    #[test]
    fn every_frame_is_delivered_or_counted(traits in any_traits(), frames in frames(), seed: u64) {
        let (arrived, counted) = carry(traits, seed, &frames);
        prop_assert_eq!(counted.entered, frames.len() as u64);
        prop_assert_eq!(counted.delivered, arrived.len() as u64);
        prop_assert_eq!(counted.entered + counted.doubled, counted.delivered + counted.lost + counted.dropped);
        let mut numbers: Vec<_> = arrived.iter().map(|(number, ..)| *number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        prop_assert_eq!(numbers.len() as u64, counted.delivered - counted.doubled, "no frame came from nowhere");
    }

    #[test]
    fn order_is_kept_where_nothing_is_held_back(traits in any_traits(), frames in frames(), seed: u64) {
        let (arrived, _) = carry(Traits { reordering: 0, ..traits }, seed, &frames);
        prop_assert!(arrived.is_sorted_by_key(|(number, ..)| *number), "{:?}", arrived);
    }

    #[test]
    fn a_frame_travels_as_long_as_was_said(traits in any_traits(), frames in frames(), seed: u64) {
        let (arrived, _) = carry(traits, seed, &frames);
        let turn = traits.rate.map_or(Duration::ZERO, |rate| {
            let bits = (rate.queue + 2 * 1514) as f64 * 8.0;
            Duration::from_secs_f64(bits / rate.bits_per_second as f64) + Duration::from_millis(1)
        });
        for (number, entered, left) in arrived {
            let took = left - entered;
            prop_assert!(took >= traits.delay, "frame {} took {:?}", number, took);
            let most = traits.delay + traits.jitter + HELD_BACK + turn;
            prop_assert!(took <= most, "frame {} took {:?} of {:?}", number, took, most);
        }
    }

    #[test]
    fn in_no_span_goes_more_than_the_rate_and_a_burst(
        bits_per_second in 100_000_u64..20_000_000,
        burst in 0_usize..20_000,
        frames in frames(),
    ) {
        let rate = Rate { bits_per_second, burst, queue: 30_000 };
        let (arrived, _) = carry(Traits { rate: Some(rate), ..Traits::default() }, 1, &frames);
        for (from, (.., begun)) in arrived.iter().enumerate() {
            let mut bytes = 0;
            for (number, _, ended) in &arrived[from..] {
                bytes += frames[*number].1;
                let allowed = (*ended - *begun).as_secs_f64() * bits_per_second as f64 / 8.0;
                // A frame that is longer than the bucket goes when the bucket is full.
                let most = allowed + burst.max(1514) as f64 + 1514.0 + 1.0;
                prop_assert!(bytes as f64 <= most, "{} bytes where {} may go", bytes, most);
            }
        }
    }

    #[test]
    fn the_same_seed_makes_the_same_choices(traits in any_traits(), frames in frames(), seed: u64) {
        let numbers = |(arrived, counted): (Vec<Arrival>, Counted)| {
            (arrived.into_iter().map(|(number, entered, left)| (number, left - entered)).collect::<Vec<_>>(), counted)
        };
        prop_assert_eq!(numbers(carry(traits, seed, &frames)), numbers(carry(traits, seed, &frames)));
    }
}

#[test]
fn a_busy_line_carries_its_whole_rate() {
    let rate = Rate { bits_per_second: 8_000_000, burst: 3000, queue: 10_000 };
    // Twice what it carries, for two seconds.
    let frames = vec![(500, 1000); 4000];
    let (arrived, counted) = carry(Traits { rate: Some(rate), ..Traits::default() }, 7, &frames);
    assert!((2000..2020).contains(&arrived.len()), "{} frames", arrived.len());
    assert_eq!(counted.dropped, 4000 - counted.delivered);
}

#[test]
fn shares_are_as_large_as_was_said() {
    let traits = Traits { loss: 100, reordering: 50, duplication: 200, ..Traits::default() };
    let (arrived, counted) = carry(traits, 3, &vec![(1000, 100); 20_000]);
    let near = |found: u64, expected: u64| found.abs_diff(expected) < expected / 10;
    assert!(near(counted.lost, 2000) && near(counted.doubled, 3600), "{counted:?}");
    assert!(near(counted.held_back, 1080), "{counted:?}");
    assert!(!arrived.is_sorted_by_key(|(number, ..)| *number), "what is held back is overtaken");
}

#[test]
fn a_line_that_becomes_faster_lets_go_of_what_waits() {
    let rate = Rate { bits_per_second: 8000, burst: 0, queue: 100_000 };
    let mut line = Line::new(Traits { rate: Some(rate), ..Traits::default() }, 1);
    let now = clock::now();
    (0..10).for_each(|number| line.handle_frame(now, 1000, number));
    assert_eq!(line.inside(), 9 + 1, "the first has left, and nobody has taken it");
    assert_eq!(line.poll_frame(now), Some(0));
    assert_eq!(line.poll_frame(now), None);
    line.become_like(now, Traits::default());
    line.handle_timeout(now);
    assert_eq!(std::iter::from_fn(|| line.poll_frame(now)).count(), 9);
}

#[test]
fn traits_that_no_cable_has_are_refused() {
    let rate = |bits_per_second, queue| Some(Rate { bits_per_second, burst: 0, queue });
    let plain = Traits::default();
    for wrong in [
        Traits { loss: 1001, ..plain },
        Traits { reordering: 2000, ..plain },
        Traits { duplication: 1001, ..plain },
        Traits { rate: rate(999, 10_000), ..plain },
        Traits { rate: rate(1_000_000, 100), ..plain },
    ] {
        assert!(wrong.check().is_err(), "{wrong:?}");
    }
    Traits { rate: Some(Rate::of(64_000)), ..plain }.check().unwrap();
}

#[test]
fn two_hosts_measure_what_a_cable_says_and_find_out_one_that_lies() {
    if runs_elsewhere() {
        return;
    }
    let mut internet = Internet::new().unwrap();
    let server = internet.attach_host("server").unwrap();
    let mut router = internet.attach_router("home", Nat::FULL_CONE, 1).unwrap();
    let (host, _) = router.attach_host().unwrap();
    let plain = Traits::default();
    let cable = internet.splice("home", plain, 1).unwrap();
    let quick = self_test::check(&host, &server, plain, plain).unwrap();
    assert_eq!(quick.answered, self_test::PINGS);

    let ms = Duration::from_millis;
    let up = Traits { delay: ms(40), jitter: ms(10), rate: Some(Rate::of(20_000_000)), ..plain };
    let down = Traits { delay: ms(20), ..plain };
    cable.set(Way::Up, up).unwrap();
    cable.set(Way::Down, down).unwrap();
    self_test::check(&host, &server, up, down).unwrap();
    let error =
        self_test::check(&host, &server, Traits { delay: ms(100), rate: None, ..up }, down).unwrap_err();
    assert!(format!("{error:#}").starts_with("the lab's fault: a cable"), "{error:#}");

    let lossy = Traits { loss: 200, duplication: 100, reordering: 100, ..plain };
    cable.set_both(lossy).unwrap();
    self_test::check(&host, &server, lossy, lossy).unwrap();
    assert!(self_test::check(&host, &server, plain, plain).is_err());
    let [sent, received] = cable.counted().unwrap();
    assert!(sent.lost > 0 && sent.doubled > 0 && received.held_back > 0, "{sent:?} {received:?}");
}

#[test]
fn a_spliced_home_still_has_its_ipv6() {
    if runs_elsewhere() {
        return;
    }
    let mut internet = Internet::new().unwrap();
    let server = internet.attach_server("server").unwrap();
    let mut router = internet.attach_router("home", Nat::FULL_CONE, 1).unwrap();
    let (mut host, end) = router.attach_host().unwrap();
    let plain = Traits::default();
    let _cable = internet.splice("home", plain, 1).unwrap();
    host.ip = end.addresses.v6.into();
    let mut there = server.host.clone();
    there.ip = server.first.v6.into();
    self_test::check(&host, &there, plain, plain).unwrap();
}
