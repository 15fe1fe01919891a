//! Sentences of RFC 8656 and what else the server promises, in virtual time.

use std::time::Duration;

use farcall_proto::turn_credentials::{AuthSecret, UnixTime};

use super::world::*;
use super::*;
use crate::auth::NONCE_LIFETIME;
use crate::stun::{AttributeType, ChannelNumber, Class, Method, TransactionId, header::Header};

const SECOND: Duration = Duration::from_secs(1);

mod binding {
    use super::*;

    #[test]
    fn a_bare_binding_of_20_bytes_is_answered_with_32() {
        let mut world = World::new();
        let client = world.client(CLIENT);
        let id = world.transaction_id();
        world.deliver(client.flow, &unsigned(Class::Request, Method::BINDING, id, &vec![]));
        let answer = world.answer();
        assert_eq!(answer.bytes.len(), 32);
        let address = answer.message().find_xor_address(AttributeType::XOR_MAPPED_ADDRESS);
        assert_eq!((address, answer.message().transaction_id()), (Some(client.flow.client.0), id));
    }

    #[test]
    fn a_fingerprint_is_answered_with_a_fingerprint() {
        let mut world = World::new();
        let client = world.client(CLIENT);
        let mut bytes = Vec::new();
        crate::stun::MessageWriter::new(&mut bytes, Class::Request, Method::BINDING, TransactionId([1; 12]))
            .fingerprint()
            .finish()
            .unwrap();
        world.deliver(client.flow, &bytes);
        assert!(world.answer().message().has_fingerprint());
    }

    #[test]
    fn an_unknown_comprehension_required_attribute_is_named_in_a_420() {
        let mut world = World::new();
        let client = world.client(CLIENT);
        let attributes = vec![(AttributeType(0x7f00), vec![1]), (AttributeType(0xff00), vec![1])];
        let id = world.transaction_id();
        world.deliver(client.flow, &unsigned(Class::Request, Method::BINDING, id, &attributes));
        let answer = world.answer();
        assert_eq!(answer.code.unwrap().number(), 420);
        assert_eq!(answer.message().find(AttributeType::UNKNOWN_ATTRIBUTES), Some(&[0x7f, 0x00][..]));
    }

    #[test]
    fn classic_stun_is_answered_only_if_asked_for() {
        let mut request = vec![0, 1, 0, 0];
        request.extend_from_slice(&[9; 16]);
        let mut world = World::new();
        let flow = world.client(CLIENT).flow;
        world.deliver(flow, &request);
        assert!(world.is_silent());
        let mut world = World::with(|config| config.classic_stun = ClassicStun::Answered);
        world.deliver(flow, &request);
        assert!(matches!(&world.actions()[..], [Action::Respond { message, .. }] if message.len() == 32));
    }
}

mod silence {
    use super::*;

    #[test]
    fn what_is_not_a_request_is_never_answered() {
        let mut world = World::new();
        let client = world.client(CLIENT);
        let id = TransactionId([1; 12]);
        let method = |number| Method::new(number).unwrap();
        let mut datagrams = vec![
            vec![],
            vec![0],
            vec![0x80; 40],
            vec![0xff; 20],
            vec![0x40, 0, 0, 4, 1, 2, 3, 4],
            vec![0; 20],
        ];
        for class in [Class::Success, Class::Error, Class::Indication] {
            for number in [1, 3, 4, 6, 7, 8, 9, 0xfff] {
                datagrams.push(unsigned(class, method(number), id, &vec![]));
            }
        }
        for number in [2, 6, 7, 0xa, 0xb, 0xc, 0xfff] {
            datagrams.push(unsigned(Class::Request, method(number), id, &vec![]));
        }
        for datagram in datagrams {
            world.deliver(client.flow, &datagram);
            assert!(world.is_silent(), "{datagram:02x?}");
        }
    }

    #[test]
    fn a_datagram_from_port_zero_is_never_answered() {
        let mut world = World::new();
        let client = world.client("192.0.2.7:0");
        world.deliver(
            client.flow,
            &unsigned(Class::Request, Method::BINDING, TransactionId([1; 12]), &vec![]),
        );
        assert!(world.is_silent());
        assert_eq!(world.counted("dropped_datagrams_total{reason=\"source_port_zero\"}"), 1);
    }

    #[test]
    fn a_message_cut_short_or_with_a_wrong_fingerprint_is_never_answered() {
        let mut world = World::new();
        let client = world.client(CLIENT);
        let request = world.request(&client, Method::ALLOCATE, &udp());
        for end in 0..request.len() {
            world.deliver(client.flow, &request[..end]);
            assert!(world.is_silent(), "{end}");
        }
    }

    #[test]
    fn errors_for_strangers_stay_within_the_budget_and_a_client_with_credentials_gets_through() {
        let mut world = World::with_rate(|_| (), Some(10));
        let client = world.client(CLIENT);
        for number in 0..100u8 {
            let request = unsigned(Class::Request, Method::ALLOCATE, TransactionId([number; 12]), &udp());
            world.deliver(client.flow, &request);
        }
        assert_eq!(world.actions().len(), 5);
        assert_eq!(world.counted("dropped_datagrams_total{reason=\"unauthenticated_rate\"}"), 95);
        assert_eq!(world.code(&client, Method::ALLOCATE, udp()), None);
    }

    #[test]
    fn a_stream_client_has_proven_where_it_is_and_is_always_told() {
        let mut world = World::with_rate(|_| (), Some(1));
        let mut client = world.client(CLIENT);
        client.flow.transport = Transport::Tcp;
        for number in 0..10u8 {
            let request = unsigned(Class::Request, Method::ALLOCATE, TransactionId([number; 12]), &udp());
            world.deliver(client.flow, &request);
        }
        assert_eq!(world.actions().len(), 10);
    }

    #[test]
    fn strangers_cost_no_state() {
        let mut world = World::new();
        for port in 1..1000u16 {
            let client = world.client(&format!("192.0.2.9:{port}"));
            let mut forged = client.clone();
            forged.password = "guess".into();
            let mut stale = client.clone();
            stale.nonce = b"AAAAAAAAAAAAAAAAAAAA".to_vec();
            for client in [forged, stale] {
                world.ask(&client, Method::ALLOCATE, udp());
            }
        }
        assert_eq!((world.server.allocation_count(), world.server.poll_timeout()), (0, None));
        assert!(world.opened.is_empty());
    }
}

mod authentication {
    use super::*;

    #[test]
    fn a_request_without_credentials_is_challenged_briefly() {
        let mut world = World::new();
        let client = world.client(CLIENT);
        let request = unsigned(Class::Request, Method::ALLOCATE, TransactionId([1; 12]), &udp());
        world.deliver(client.flow, &request);
        let answer = world.answer();
        assert_eq!(answer.code.unwrap().number(), 401);
        assert_eq!(answer.message().find_text(AttributeType::REALM), Some(REALM));
        assert!(answer.bytes.len() <= 72, "{}", answer.bytes.len());

        let nonce = answer.message().find(AttributeType::NONCE).unwrap().to_vec();
        let client = Client { nonce, ..client };
        assert_eq!(world.code(&client, Method::ALLOCATE, udp()), None, "the challenge's nonce is good");
    }

    #[test]
    fn a_stale_nonce_is_a_438_with_a_new_one() {
        let mut world = World::new();
        let client = world.allocated();
        world.advance(NONCE_LIFETIME - SECOND);
        assert_eq!(world.code(&client, Method::REFRESH, vec![]), None);
        world.advance(SECOND);
        let answer = world.ask(&client, Method::REFRESH, vec![]);
        assert_eq!(answer.code.unwrap().number(), 438);
        let nonce = answer.message().find(AttributeType::NONCE).unwrap().to_vec();
        assert_eq!(world.code(&Client { nonce, ..client }, Method::REFRESH, vec![]), None);
    }

    #[test]
    fn answers_to_known_clients_are_signed_and_challenges_are_not() {
        let mut world = World::new();
        let client = world.client(CLIENT);
        let key = client.key();
        assert!(world.ask(&client, Method::ALLOCATE, udp()).message().verify_integrity(&key));
        assert!(world.ask(&client, Method::ALLOCATE, udp()).message().verify_integrity(&key), "a 437, too");
        let wrong = Client { password: "guess".into(), ..client };
        assert!(!world.ask(&wrong, Method::REFRESH, vec![]).message().has_integrity());
    }

    #[test]
    fn another_user_on_an_allocation_is_a_441() {
        let mut world = World::new();
        let client = world.allocated();
        let bob = Client { username: "bob".into(), ..client };
        let peer = world.peer(PEER);
        assert_eq!(world.code(&bob, Method::CREATE_PERMISSION, vec![peer]), Some(441));
        assert_eq!(world.code(&bob, Method::REFRESH, vec![lifetime(0)]), Some(441));
        assert_eq!(world.server.allocation_count(), 1);
    }

    #[test]
    fn an_expired_credential_makes_no_allocation_and_keeps_one() {
        let mut world = World::new();
        let made = AuthSecret::new("north").unwrap().mint(UnixTime(UNIX_START + 60), "session");
        let client = world.client_as(CLIENT, &made.username, &made.password);
        let late = world.client_as("192.0.2.7:4001", &made.username, &made.password);
        assert_eq!(world.code(&client, Method::ALLOCATE, udp()), None);
        world.advance(60 * SECOND);
        assert_eq!(world.code(&late, Method::ALLOCATE, udp()), Some(401));
        assert_eq!(world.code(&client, Method::REFRESH, vec![]), None);
        world.permit(&client, PEER);
    }

    #[test]
    fn integrity_without_a_nonce_is_a_400() {
        let mut world = World::new();
        let client = world.client(CLIENT);
        let mut bytes = Vec::new();
        crate::stun::MessageWriter::new(&mut bytes, Class::Request, Method::ALLOCATE, TransactionId([1; 12]))
            .attribute(AttributeType::USERNAME, b"alice")
            .integrity(&client.key())
            .finish()
            .unwrap();
        world.deliver(client.flow, &bytes);
        assert_eq!(world.answer().code.unwrap().number(), 400);
    }

    #[test]
    fn of_unknown_attributes_only_a_known_client_is_told() {
        let mut world = World::new();
        let client = world.client(CLIENT);
        let attributes = udp_and(AttributeType(0x7f00), &[]);
        assert_eq!(world.code(&client, Method::ALLOCATE, attributes.clone()), Some(420));
        let stranger = Client { username: "eve".into(), ..client };
        assert_eq!(world.code(&stranger, Method::ALLOCATE, attributes), Some(401));
    }
}

mod allocate {
    use super::*;

    #[test]
    fn an_allocation_says_where_it_is_for_how_long_and_whose() {
        let mut world = World::new();
        let client = world.client(CLIENT);
        let answer = world.ask(&client, Method::ALLOCATE, udp());
        let message = answer.message();
        assert_eq!(message.find_xor_address(AttributeType::XOR_RELAYED_ADDRESS), Some(world.opened[0].0));
        assert_eq!(message.find_xor_address(AttributeType::XOR_MAPPED_ADDRESS), Some(client.flow.client.0));
        assert_eq!(message.find(AttributeType::LIFETIME), Some(&600u32.to_be_bytes()[..]));
        assert_eq!(world.counted("allocations_created_total"), 1);
        assert_eq!(world.counted("requests_total{method=\"allocate\",result=\"success\"}"), 1);
    }

    #[test]
    fn a_retransmitted_allocate_is_answered_alike_and_another_is_a_437() {
        let mut world = World::new();
        let client = world.client(CLIENT);
        let request = world.request(&client, Method::ALLOCATE, &udp());
        world.deliver(client.flow, &request);
        let first = world.answer();
        world.deliver(client.flow, &request);
        assert_eq!(world.answer(), first);
        assert_eq!(world.opened.len(), 1);
        assert_eq!(world.code(&client, Method::ALLOCATE, udp()), Some(437));
        assert_eq!(world.server.allocation_count(), 1);
    }

    #[test]
    fn the_transport_must_be_there_and_be_udp() {
        let mut world = World::new();
        let client = world.client(CLIENT);
        let transport = |value: &[u8]| vec![(AttributeType::REQUESTED_TRANSPORT, value.to_vec())];
        assert_eq!(world.code(&client, Method::ALLOCATE, vec![]), Some(400));
        assert_eq!(world.code(&client, Method::ALLOCATE, transport(&[17])), Some(400));
        assert_eq!(world.code(&client, Method::ALLOCATE, transport(&[6, 0, 0, 0])), Some(442));
        assert_eq!(world.server.allocation_count(), 0);
    }

    #[test]
    fn a_family_without_a_relay_address_is_a_440() {
        let mut world = World::new();
        let client = world.client(CLIENT);
        let family = |value: &[u8]| udp_and(AttributeType::REQUESTED_ADDRESS_FAMILY, value);
        assert_eq!(world.code(&client, Method::ALLOCATE, family(&[2, 0, 0, 0])), Some(440));
        assert_eq!(world.code(&client, Method::ALLOCATE, family(&[9, 0, 0, 0])), Some(440));
        assert_eq!(world.code(&client, Method::ALLOCATE, family(&[1])), Some(400));
        assert_eq!(world.code(&client, Method::ALLOCATE, family(&[1, 0, 0, 0])), None);
    }

    #[test]
    fn an_ipv6_relay_is_made_on_request_and_takes_ipv6_peers_only() {
        let mut world =
            World::with(|config| config.addresses.relay_v6 = Some("2606:4700::1".parse().unwrap()));
        let client = world.client(CLIENT);
        let attributes = udp_and(AttributeType::REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0]);
        assert_eq!(world.code(&client, Method::ALLOCATE, attributes), None);
        assert!(world.opened[0].0.is_ipv6());
        let v4 = world.peer(PEER);
        assert_eq!(world.code(&client, Method::CREATE_PERMISSION, vec![v4]), Some(443));
        world.permit(&client, "[2606:4700::2]:5000");
        let family = |value: u8| vec![(AttributeType::REQUESTED_ADDRESS_FAMILY, vec![value, 0, 0, 0])];
        assert_eq!(world.code(&client, Method::REFRESH, family(1)), Some(443));
        assert_eq!(world.code(&client, Method::REFRESH, family(2)), None);
    }

    #[test]
    fn an_even_port_is_even_and_a_reserved_one_is_beyond_capacity() {
        let mut world = World::new();
        let client = world.client(CLIENT);
        let even = |flags| udp_and(AttributeType::EVEN_PORT, &[flags]);
        assert_eq!(world.code(&client, Method::ALLOCATE, even(0x80)), Some(508));
        let token = |length| udp_and(AttributeType::RESERVATION_TOKEN, &vec![1; length]);
        assert_eq!(world.code(&client, Method::ALLOCATE, token(8)), Some(508));
        assert_eq!(world.code(&client, Method::ALLOCATE, token(7)), Some(400));
        let both = [token(8), even(0)].concat();
        assert_eq!(world.code(&client, Method::ALLOCATE, both), Some(400));
        for port in 1..30 {
            let client = world.client(&format!("192.0.2.8:{port}"));
            assert_eq!(world.code(&client, Method::ALLOCATE, even(0)), None);
        }
        assert!(world.opened.iter().all(|relayed| relayed.0.port() % 2 == 0));
    }

    #[test]
    fn a_taken_port_leads_to_another_and_none_left_to_a_508() {
        let mut world = World::with(|config| config.addresses.ports = 50000..=50002);
        let client = world.client(CLIENT);
        world.relay_results = vec![Err(RelayError::AddressInUse); 2];
        assert_eq!(world.code(&client, Method::ALLOCATE, udp()), None);
        let mut tried: Vec<_> = world.opened.iter().map(|relayed| relayed.0.port()).collect();
        tried.sort_unstable();
        assert_eq!(tried, [50000, 50001, 50002]);

        let other = world.client("192.0.2.8:1");
        world.relay_results = vec![Err(RelayError::AddressInUse); 3];
        assert_eq!(world.code(&other, Method::ALLOCATE, udp()), Some(508));
        assert_eq!(world.code(&other, Method::ALLOCATE, udp()), None, "nothing is left of the failed one");
    }

    #[test]
    fn a_reached_quota_is_a_486_and_a_missing_socket_a_508() {
        let mut world = World::new();
        let client = world.client(CLIENT);
        world.relay_results = vec![Err(RelayError::QuotaReached), Err(RelayError::Unavailable)];
        assert_eq!(world.code(&client, Method::ALLOCATE, udp()), Some(486));
        assert_eq!(world.code(&client, Method::ALLOCATE, udp()), Some(508));
        assert_eq!(world.server.allocation_count(), 0);
        assert!(world.is_silent(), "there is no relay to close");
    }

    #[test]
    fn behind_a_nat_the_outside_address_is_advertised() {
        let mut world =
            World::with(|config| config.addresses.external_v4 = Some("203.0.113.77".parse().unwrap()));
        let client = world.client(CLIENT);
        let answer = world.ask(&client, Method::ALLOCATE, udp());
        let advertised = answer.message().find_xor_address(AttributeType::XOR_RELAYED_ADDRESS).unwrap();
        assert_eq!(advertised.ip().to_string(), "203.0.113.77");
        assert_eq!(advertised.port(), world.opened[0].0.port());
    }
}

mod lifetimes {
    use super::*;

    #[test]
    fn an_expired_allocation_closes_its_relay() {
        let mut world = World::new();
        let client = world.allocated();
        world.advance(600 * SECOND - Duration::from_nanos(1));
        assert!(world.is_silent());
        world.advance(Duration::from_nanos(1));
        assert_eq!(world.actions(), [Action::CloseRelay { allocation: AllocationId(0) }]);
        let client = world.client(&client.flow.client.to_string());
        assert_eq!(world.code(&client, Method::REFRESH, vec![]), Some(437));
        assert_eq!(world.counted("allocations"), 0);
    }

    #[test]
    fn a_refresh_extends_and_a_refresh_of_zero_ends() {
        let mut world = World::new();
        let client = world.allocated();
        world.advance(500 * SECOND);
        let answer = world.ask(&client, Method::REFRESH, vec![lifetime(1800)]);
        assert_eq!(answer.message().find(AttributeType::LIFETIME), Some(&1800u32.to_be_bytes()[..]));
        world.advance(1799 * SECOND);
        assert!(world.is_silent());
        let client = world.client(CLIENT);
        let answer = world.ask(&client, Method::REFRESH, vec![lifetime(0)]);
        assert_eq!(answer.message().find(AttributeType::LIFETIME), Some(&0u32.to_be_bytes()[..]));
        assert_eq!(world.actions(), [Action::CloseRelay { allocation: AllocationId(0) }]);
        assert_eq!(world.server.poll_timeout(), None);
        assert_eq!(world.code(&client, Method::ALLOCATE, udp()), None, "the 5-tuple is free again");
    }

    #[test]
    fn a_closed_stream_ends_its_allocation_and_all_that_goes_with_it() {
        let mut world = World::new();
        let client = world.allocated();
        world.bind(&client, 0x4000, PEER);
        world.actions();
        world.server.handle_flow_closed(client.flow);
        world.act();
        let [Action::RemoveRoute(_), Action::CloseRelay { .. }] = world.actions()[..] else { panic!() };
        assert_eq!(world.server.poll_timeout(), None);
    }
}

mod permissions {
    use super::*;

    #[test]
    fn a_permission_is_for_an_ip_address_whatever_the_port_for_300_seconds() {
        let mut world = World::new();
        let client = world.allocated();
        world.permit(&client, PEER);
        world.advance(299 * SECOND);
        world.receive(0, "8.8.8.8:77", b"data");
        assert_eq!(world.actions().len(), 1);
        world.advance(SECOND);
        world.receive(0, "8.8.8.8:77", b"data");
        world.send(&client, PEER, b"data");
        assert!(world.is_silent());
        assert_eq!(world.counted("dropped_datagrams_total{reason=\"no_permission\"}"), 2);
    }

    #[test]
    fn one_request_permits_all_its_peers_or_none() {
        let mut world = World::new();
        let client = world.allocated();
        let peers = vec![world.peer("1.1.1.1:1"), world.peer("1.1.1.2:1"), world.peer("10.0.0.1:1")];
        assert_eq!(world.code(&client, Method::CREATE_PERMISSION, peers), Some(403));
        world.receive(0, "1.1.1.1:1", b"x");
        assert!(world.is_silent());
        let peers = vec![world.peer("1.1.1.1:1"), world.peer("1.1.1.2:1")];
        assert_eq!(world.code(&client, Method::CREATE_PERMISSION, peers), None);
        world.receive(0, "1.1.1.1:1", b"x");
        world.receive(0, "1.1.1.2:9", b"x");
        assert_eq!(world.actions().len(), 2);
    }

    #[test]
    fn a_permission_request_without_a_good_peer_is_a_400_and_of_another_family_a_443() {
        let mut world = World::new();
        let client = world.allocated();
        assert_eq!(world.code(&client, Method::CREATE_PERMISSION, vec![]), Some(400));
        let broken = vec![(AttributeType::XOR_PEER_ADDRESS, vec![0, 1, 0])];
        assert_eq!(world.code(&client, Method::CREATE_PERMISSION, broken), Some(400));
        let v6 = world.peer("[2606:4700::1]:1");
        assert_eq!(world.code(&client, Method::CREATE_PERMISSION, vec![v6]), Some(443));
        let stranger = world.client("192.0.2.8:1");
        let peer = world.peer(PEER);
        assert_eq!(world.code(&stranger, Method::CREATE_PERMISSION, vec![peer]), Some(437));
    }

    #[test]
    fn what_one_client_can_make_us_remember_is_bounded() {
        let mut world = World::new();
        let client = world.allocated();
        for number in 0..u32::try_from(permission::MAX_PERMISSIONS).unwrap() {
            world.permit(&client, &format!("{}:1", std::net::Ipv4Addr::from_bits(0x0800_0000 + number)));
        }
        let peer = world.peer("11.0.0.1:1");
        assert_eq!(world.code(&client, Method::CREATE_PERMISSION, vec![peer]), Some(508));
        assert_eq!(world.bind_code(&client, 0x4000, "11.0.0.1:1"), Some(508));
        world.permit(&client, "8.0.0.0:1");
    }
}

mod policy {
    use super::*;

    #[test]
    fn a_peer_out_of_bounds_is_refused_by_every_method_and_nothing_leaves() {
        let mut world = World::new();
        let client = world.allocated();
        for peer in
            ["127.0.0.1:80", "10.1.2.3:80", "169.254.169.254:80", "0.0.0.0:80", "224.0.0.1:80", "9.9.9.9:53"]
        {
            let address = world.peer(peer);
            assert_eq!(world.code(&client, Method::CREATE_PERMISSION, vec![address]), Some(403), "{peer}");
            assert_eq!(world.bind_code(&client, 0x4000, peer), Some(403), "{peer}");
            world.send(&client, peer, b"data");
            assert!(world.is_silent(), "{peer}");
        }
    }

    #[test]
    fn our_own_listener_is_refused_even_where_our_relays_are_allowed() {
        let mut world = World::new();
        let client = world.allocated();
        world.permit(&client, &format!("{RELAY_IP}:50001"));
        world.send(&client, SERVER, b"loop");
        world.send(&client, &format!("{RELAY_IP}:22"), b"service");
        assert!(world.is_silent());
        assert_eq!(world.counted("dropped_datagrams_total{reason=\"peer_forbidden\"}"), 2);
        assert_eq!(world.bind_code(&client, 0x4000, SERVER), Some(403));
        assert_eq!(world.bind_code(&client, 0x4000, &format!("{RELAY_IP}:22")), Some(403));
    }

    #[test]
    fn two_clients_of_one_server_reach_each_other_by_their_relayed_addresses() {
        let mut world = World::new();
        let (alice, bob) = (world.allocated_at("192.0.2.7:1"), world.allocated_at("192.0.2.8:1"));
        let (alice_relayed, bob_relayed) = (world.opened[0].to_string(), world.opened[1].to_string());
        world.bind(&alice, 0x4000, &bob_relayed);
        world.permit(&bob, &alice_relayed);
        world.actions();
        world.send_by_channel(&alice, 0x4000, b"hello");
        let [Action::SendToPeer { allocation: AllocationId(0), peer, .. }] = world.actions()[..] else {
            panic!()
        };
        assert_eq!(peer.to_string(), bob_relayed);
        world.receive(1, &alice_relayed, b"hello");
        assert!(matches!(world.actions()[..], [Action::SendToClient { flow, .. }] if flow == bob.flow));
    }

    #[test]
    fn behind_a_nat_two_clients_of_one_server_reach_each_other_by_outside_addresses() {
        let mut world =
            World::with(|config| config.addresses.external_v4 = Some("203.0.113.77".parse().unwrap()));
        let (alice, bob) = (world.allocated_at("192.0.2.7:1"), world.allocated_at("192.0.2.8:1"));
        let (alice_port, bob_port) = (world.opened[0].0.port(), world.opened[1].0.port());
        world.bind(&alice, 0x4000, &format!("203.0.113.77:{bob_port}"));
        world.permit(&bob, &format!("203.0.113.77:{alice_port}"));
        let [Action::InstallRoute(route)] = world.actions()[..] else { panic!() };
        assert_eq!(route.peer.to_string(), format!("{RELAY_IP}:{bob_port}"), "sent inside");
        world.receive(1, &format!("{RELAY_IP}:{alice_port}"), b"hello");
        let actions = world.actions();
        let [Action::SendToClient { message, .. }] = &actions[..] else { panic!() };
        let message = crate::stun::Message::parse(message).unwrap();
        let from = message.find_xor_address(AttributeType::XOR_PEER_ADDRESS).unwrap();
        assert_eq!(from.to_string(), format!("203.0.113.77:{alice_port}"), "known from outside");
    }
}

mod channels {
    use super::*;

    fn route(client: &Client, channel: u16) -> Route {
        let channel = ChannelNumber::new(channel).unwrap();
        Route {
            flow: client.flow,
            allocation: AllocationId(0),
            channel,
            peer: PeerAddr(PEER.parse().unwrap()),
        }
    }

    #[test]
    fn a_bound_channel_carries_data_both_ways() {
        let mut world = World::new();
        let client = world.allocated();
        world.bind(&client, 0x4000, PEER);
        assert_eq!(world.actions(), [Action::InstallRoute(route(&client, 0x4000))]);
        world.send_by_channel(&client, 0x4000, b"out");
        let peer = PeerAddr(PEER.parse().unwrap());
        let (data, fragmentation) = (b"out".to_vec(), Fragmentation::Allowed);
        assert_eq!(
            world.actions(),
            [Action::SendToPeer { allocation: AllocationId(0), peer, data, fragmentation }]
        );
        world.receive(0, PEER, b"in");
        let message = vec![0x40, 0, 0, 2, b'i', b'n'];
        assert_eq!(world.actions(), [Action::SendToClient { flow: client.flow, message, data_bytes: 2 }]);
    }

    #[test]
    fn channel_data_to_a_stream_is_padded_with_zeros() {
        let mut world = World::new();
        let mut client = world.client(CLIENT);
        client.flow.transport = Transport::Tcp;
        world.ask(&client, Method::ALLOCATE, udp());
        world.bind(&client, 0x4000, PEER);
        world.actions();
        world.receive(0, PEER, b"in");
        let message = vec![0x40, 0, 0, 2, b'i', b'n', 0, 0];
        assert_eq!(world.actions(), [Action::SendToClient { flow: client.flow, message, data_bytes: 2 }]);
    }

    #[test]
    fn a_channel_is_one_peers_and_a_peer_has_one_channel() {
        let mut world = World::new();
        let client = world.allocated();
        world.bind(&client, 0x4000, PEER);
        world.bind(&client, 0x4000, PEER);
        assert_eq!(world.bind_code(&client, 0x4000, "8.8.8.8:5001"), Some(400));
        assert_eq!(world.bind_code(&client, 0x4001, PEER), Some(400));
        world.bind(&client, 0x4001, "8.8.8.8:5001");
    }

    #[test]
    fn a_channel_number_outside_the_range_is_a_400() {
        let mut world = World::new();
        let client = world.allocated();
        for channel in [0, 0x3fff, 0x5000, 0x7fff, 0x8000, 0xffff] {
            assert_eq!(world.bind_code(&client, channel, PEER), Some(400), "{channel:#x}");
        }
        world.bind(&client, 0x4fff, PEER);
        let peer = world.peer(PEER);
        assert_eq!(world.code(&client, Method::CHANNEL_BIND, vec![peer]), Some(400));
        assert_eq!(world.code(&client, Method::CHANNEL_BIND, vec![channel_number(0x4001)]), Some(400));
    }

    #[test]
    fn the_older_range_is_taken_where_the_operator_says_so() {
        let mut world = World::with(|config| config.channels = ChannelRange::Rfc5766);
        let client = world.allocated();
        world.bind(&client, 0x7fff, PEER);
        assert_eq!(world.bind_code(&client, 0x8000, "8.8.8.8:1"), Some(400));
    }

    #[test]
    fn a_route_ends_with_its_permission_and_comes_back_with_it() {
        let mut world = World::new();
        let client = world.allocated();
        world.bind(&client, 0x4000, PEER);
        world.actions();
        world.advance(300 * SECOND);
        assert_eq!(world.actions(), [Action::RemoveRoute(route(&client, 0x4000))]);
        world.send_by_channel(&client, 0x4000, b"out");
        world.receive(0, PEER, b"in");
        assert!(world.is_silent());
        world.permit(&client, PEER);
        assert_eq!(world.actions(), [Action::InstallRoute(route(&client, 0x4000))]);
    }

    #[test]
    fn a_channel_ends_after_600_seconds_and_its_permission_goes_on() {
        let mut world = World::new();
        let client = world.allocated();
        world.ask(&client, Method::REFRESH, vec![lifetime(3600)]);
        world.bind(&client, 0x4000, PEER);
        world.advance(299 * SECOND);
        world.permit(&client, PEER);
        world.advance(299 * SECOND);
        world.permit(&client, PEER);
        world.actions();
        world.advance(2 * SECOND);
        assert_eq!(world.actions(), [Action::RemoveRoute(route(&client, 0x4000))]);
        world.receive(0, PEER, b"in");
        let actions = world.actions();
        let [Action::SendToClient { message, data_bytes: 2, .. }] = &actions[..] else { panic!() };
        let header = Header::parse(message).unwrap();
        assert_eq!((header.class, header.method), (Class::Indication, Method::DATA));
        let client = world.client(CLIENT);
        assert_eq!(world.bind_code(&client, 0x4001, PEER), None, "the peer is free for another number");
    }

    #[test]
    fn rebinding_renews_channel_and_permission() {
        let mut world = World::new();
        let client = world.allocated();
        world.ask(&client, Method::REFRESH, vec![lifetime(3600)]);
        world.bind(&client, 0x4000, PEER);
        world.actions();
        for _ in 0..4 {
            world.advance(299 * SECOND);
            let client = world.client(CLIENT);
            world.bind(&client, 0x4000, PEER);
        }
        assert!(world.is_silent());
        assert_eq!(world.server.deadlines.len(), 3, "allocation, permission, channel: once each");
    }
}

mod data {
    use super::*;

    #[test]
    fn a_send_indication_becomes_a_datagram_and_a_datagram_a_data_indication() {
        let mut world = World::new();
        let client = world.allocated();
        world.permit(&client, PEER);
        world.send(&client, PEER, b"out");
        let peer = PeerAddr(PEER.parse().unwrap());
        let (data, fragmentation) = (b"out".to_vec(), Fragmentation::Allowed);
        assert_eq!(
            world.actions(),
            [Action::SendToPeer { allocation: AllocationId(0), peer, data, fragmentation }]
        );
        world.receive(0, PEER, b"in");
        let actions = world.actions();
        let [Action::SendToClient { flow, message, data_bytes: 2 }] = &actions[..] else { panic!() };
        let message = crate::stun::Message::parse(message).unwrap();
        assert_eq!(
            (*flow, message.class(), message.method()),
            (client.flow, Class::Indication, Method::DATA)
        );
        assert_eq!(message.find(AttributeType::DATA), Some(&b"in"[..]));
        assert_eq!(message.find_xor_address(AttributeType::XOR_PEER_ADDRESS), Some(peer.0));
    }

    #[test]
    fn dont_fragment_goes_with_its_datagram() {
        let mut world = World::new();
        let client = world.allocated();
        world.permit(&client, PEER);
        let attributes = vec![
            world.peer(PEER),
            (AttributeType::DATA, b"x".to_vec()),
            (AttributeType::DONT_FRAGMENT, vec![]),
        ];
        let id = world.transaction_id();
        world.deliver(client.flow, &unsigned(Class::Indication, Method::SEND, id, &attributes));
        let [Action::SendToPeer { fragmentation: Fragmentation::Forbidden, .. }] = world.actions()[..] else {
            panic!()
        };
    }

    #[test]
    fn a_broken_send_indication_ends_in_silence() {
        let mut world = World::new();
        let client = world.allocated();
        world.permit(&client, PEER);
        let data = (AttributeType::DATA, b"x".to_vec());
        for attributes in
            [vec![data.clone()], vec![(AttributeType::XOR_PEER_ADDRESS, vec![1]), data.clone()], vec![]]
        {
            let id = world.transaction_id();
            world.deliver(client.flow, &unsigned(Class::Indication, Method::SEND, id, &attributes));
            assert!(world.is_silent());
        }
        let attributes = vec![world.peer(PEER), data, (AttributeType(0x7f00), vec![])];
        let id = world.transaction_id();
        world.deliver(client.flow, &unsigned(Class::Indication, Method::SEND, id, &attributes));
        assert!(world.is_silent(), "an unknown comprehension-required attribute");
    }

    #[test]
    fn data_too_long_for_an_indication_is_dropped_and_the_longest_fits() {
        let mut world = World::new();
        let client = world.allocated();
        world.permit(&client, PEER);
        world.receive(0, PEER, &vec![1; 65507]);
        assert_eq!(world.actions().len(), 1);
        world.receive(0, PEER, &vec![1; 65535]);
        assert!(world.is_silent());
        assert_eq!(world.counted("dropped_datagrams_total{reason=\"too_long\"}"), 1);
    }

    #[test]
    fn data_of_another_clients_flow_goes_nowhere() {
        let mut world = World::new();
        let client = world.allocated();
        world.bind(&client, 0x4000, PEER);
        world.actions();
        let spoofer = world.client("192.0.2.7:4001");
        world.send_by_channel(&spoofer, 0x4000, b"x");
        world.send(&spoofer, PEER, b"x");
        assert!(world.is_silent());
    }
}
