//! Corefiles without the cluster's names for the agent and the stock CoreDNS, with what both are asked.

use super::corefile_cases::Case;

/// What stands for something of the lab is explained in `corefile_oracle.rs`.
pub const CASES: &[Case] = &[
    (
        "answers of their own",
        r#"tmpl.example {
            template IN A {
                match "^ip-(?P<a>[0-9]+)-(?P<b>[0-9]+)-(?P<c>[0-9]+)-(?P<d>[0-9]+)[.]"
                answer "{{ .Name }} 60 IN A {{ .Group.a }}.{{ .Group.b }}.{{ .Group.c }}.{{ .Group.d }}"
                fallthrough
            }
            template IN A alias.tmpl.example {
                answer "{{ .Name }} 60 IN CNAME www.example.com"
            }
            template IN ANY {
                rcode NXDOMAIN
                authority "tmpl.example 60 IN SOA ns.tmpl.example hostmaster.tmpl.example 1 7200 1800 86400 60"
            }
        }
        . {
            nsid node-7
            chaos Test-1 one
            any
            dns64 {
                allow_ipv4
            }
            minimal
            header {
                response set ra
            }
            hosts {
                192.0.2.7 printer.example
                2001:db8::7 printer.example
                192.0.2.8 printer.example *.wild.example
                fallthrough
            }
            forward . UPSTREAM {
                except private.example
            }
        }"#,
        &[
            "ip-10-1-2-3.tmpl.example A",
            "ip-10-1-2-3.tmpl.example AAAA",
            "other.tmpl.example A",
            "alias.tmpl.example A",
            "printer.example A",
            "printer.example AAAA",
            "printer.example TXT",
            "printer.example ANY",
            "x.wild.example A",
            "7.2.0.192.in-addr.arpa PTR",
            "9.2.0.192.in-addr.arpa PTR",
            "www.example.com AAAA",
            "a.example.com A",
            "x.private.example A",
            "version.bind TXT CH",
            "authors.bind TXT CH",
            "www.example.com A CH",
            "printer.example A nsid",
            "www.example.com A nsid",
            "other.tmpl.example A nsid",
        ],
    ),
    (
        "who may ask",
        ". {
            acl blocked.example {
                block type A net 192.0.2.0/24 127.0.0.0/8
                allow
            }
            acl dropped.example {
                drop type A
            }
            acl {
                filter type TXT
            }
            forward . UPSTREAM
        }",
        &[
            "x.blocked.example A",
            "x.blocked.example A plain",
            "x.blocked.example AAAA",
            "x.dropped.example A silent",
            "x.dropped.example A silent tcp",
            "x.dropped.example AAAA",
            "www.example.com TXT",
            "www.example.com TXT plain",
            "www.example.com A",
        ],
    ),
    (
        "what is kept, and for how long",
        ". {
            cache 20 example.net {
                disable success www.example.net
                disable denial absent.example.net
            }
            forward . UPSTREAM {
                force_tcp
                max_fails 3
                expire 20s
                health_check 1s
            }
        }",
        // The TTLs say what is kept: 20 seconds at most.
        &["www.example.net A", "a.example.net A", "absent.example.net A", "none.example.net A", "elsewhere.test A"],
    ),
    (
        "times as they came",
        ". {
            cache 20 {
                keepttl
            }
            forward . UPSTREAM {
                prefer_udp
            }
        }",
        &["a.example.net A", "a.example.net A", "absent.example.net A", "absent.example.net A"],
    ),
    (
        "all addresses made of those of IPv4, and hosts without names at their addresses",
        ". {
            dns64 {
                prefix 64:ff9b:1::/96
                allow_ipv4
                translate_all
            }
            hosts {
                192.0.2.7 printer.example
                2001:db8::7 printer.example
                no_reverse
                fallthrough
            }
            forward . UPSTREAM
        }",
        &[
            "printer.example A",
            "printer.example AAAA",
            "a.example.com AAAA",
            "absent.example.com AAAA",
            "7.2.0.192.in-addr.arpa PTR",
        ],
    ),
    (
        "extended errors",
        r#". {
            template IN A error.example {
                rcode NXDOMAIN
                ederror 21 "Not supported"
            }
            forward . UPSTREAM
        }"#,
        &["error.example A", "error.example AAAA"],
    ),
    (
        "answers that are too long",
        r#". {
            bufsize 512
            template IN TXT long.example {
                answer "{{ .Name }} 60 IN TXT LONG-1"
                answer "{{ .Name }} 60 IN TXT LONG-2"
                answer "{{ .Name }} 60 IN TXT LONG-3"
            }
            forward . UPSTREAM
        }"#,
        &["long.example TXT", "long.example A"],
    ),
    (
        "rules of rewriting one after the other",
        ". {
            rewrite continue name exact k.example.com a.example.com
            rewrite stop name exact s.example.com b.example.com
            forward . UPSTREAM
        }",
        &["k.example.com A", "s.example.com A", "c.example.com A"],
    ),
    (
        "search paths of a file",
        r#". {
            autopath SEARCH
            template IN A first.example {
                match ^www[.]
                answer "{{ .Name }} 60 IN CNAME target.example."
            }
            template IN A first.example {
                rcode NXDOMAIN
            }
            template IN A second.example {
                answer "{{ .Name }} 60 IN A 192.0.2.2"
            }
            template IN A target.example {
                answer "{{ .Name }} 60 IN A 192.0.2.1"
            }
        }"#,
        &["www.first.example A", "other.first.example A", "other.second.example A", "target.example A"],
    ),
    (
        "addresses of IPv6 made of what fails",
        ". {
            dns64 {
                allow_ipv4
            }
            template IN AAAA fails.example none.example {
                rcode NOERROR
            }
            template IN A fails.example {
                rcode SERVFAIL
            }
            template IN A none.example {
                rcode NXDOMAIN
            }
            template IN AAAA fails.test {
                rcode SERVFAIL
            }
        }",
        &["fails.example AAAA", "none.example AAAA", "fails.test AAAA"],
    ),
    (
        "blocks for zones and zones below them",
        r#". {
            template IN DS {
                rcode NOERROR
                authority ". 60 IN SOA ns.first. hostmaster.first. 1 7200 1800 86400 60"
            }
        }
        example {
            template IN DS {
                rcode NOERROR
                authority "example. 60 IN SOA ns.second. hostmaster.second. 1 7200 1800 86400 60"
            }
        }
        a.example {
            template IN DS {
                rcode NOERROR
                authority "a.example. 60 IN SOA ns.third. hostmaster.third. 1 7200 1800 86400 60"
            }
        }"#,
        &["elsewhere.test DS", "b.example DS", "a.example DS", "x.a.example DS"],
    ),
    (
        "answers that the upstream server cuts",
        ". {
            forward . UPSTREAM
        }",
        &["short.cut.example A", "long.cut.example TXT", "long.cut.example TXT tcp", "long.cut.example TXT plain"],
    ),
    (
        "an upstream server without TCP",
        ". {
            forward . UDP_UPSTREAM
        }",
        &["udp.numbered.example AAAA", "tcp.numbered.example AAAA tcp"],
    ),
    (
        "upstream servers over TLS, and one that has another name",
        ". {
            forward . TLS_UPSTREAM {
                tls TLS/ca.pem
                tls_servername dns.example
            }
        }
        another.example {
            forward . TLS_UPSTREAM {
                tls TLS/ca.pem
                tls_servername another.example
            }
        }
        known.example {
            forward . TLS_OF_CLIENTS {
                tls TLS/client.pem TLS/client.key TLS/ca.pem
                tls_servername dns.example
            }
        }
        unknown.example {
            forward . TLS_OF_CLIENTS {
                tls TLS/ca.pem
                tls_servername dns.example
            }
        }",
        &["www.example.com A", "b.example.com A tcp", "www.another.example A", "www.known.example A", "www.unknown.example A"],
    ),
    (
        "more rewriting",
        r#". {
            rewrite stop {
                name suffix .shown.example .hidden.example
                answer name (.*)\.hidden\.example {1}.shown.example
                answer value (.*)\.hidden\.example {1}.shown.example
            }
            rewrite ttl suffix .short.example 5
            rewrite ttl regex (.*)\.between\.example 10-20
            rewrite continue type TXT A
            rewrite stop name exact text.example www.example.com
            template IN SRV hidden.example {
                answer "{{ .Name }} 60 IN SRV 0 0 80 target.hidden.example."
                additional "target.hidden.example. 60 IN A 192.0.2.1"
            }
            template IN A short.example between.example {
                answer "{{ .Name }} 60 IN A 192.0.2.1"
            }
            forward . UPSTREAM
        }"#,
        &[
            "a.shown.example SRV",
            "a.hidden.example SRV",
            "a.short.example A",
            "a.between.example A",
            "text.example A",
            "www.example.com TXT",
        ],
    ),
    (
        "flags of answers",
        ". {
            header {
                response set aa
                response clear rd
            }
            forward . UPSTREAM
        }",
        &["www.example.com A", "absent.example.com A"],
    ),
    (
        "hosts of a file",
        ". {
            hosts HOSTS hosts.example in-addr.arpa {
                192.0.2.9 inline.hosts.example
                ttl 9
                reload 1s
                fallthrough hosts.example
            }
            forward . UPSTREAM
        }",
        &[
            "of-file.hosts.example A",
            "OF-file.hosts.example AAAA",
            "second.hosts.example A",
            "inline.hosts.example A",
            "absent.hosts.example A",
            "elsewhere.example A",
            "7.2.0.192.in-addr.arpa PTR",
            "9.2.0.192.in-addr.arpa PTR",
            "1.2.0.192.in-addr.arpa PTR",
        ],
    ),
    (
        "the longest and the shortest times in a cache",
        ". {
            cache {
                success 100 20 10
                denial 100 15 8
            }
            forward . UPSTREAM
        }",
        // What is there for 60 seconds, or for one.
        &["www.example.net A", "absent.example.net A", "brief.example.net A", "absent.brief.example.net A"],
    ),
    (
        "hosts behind a cache for less than its shortest time",
        ". {
            cache 3
            hosts {
                192.0.2.7 printer.example
                fallthrough
            }
            forward . UPSTREAM
        }",
        &["printer.example A", "www.example.net A", "absent.example.net A"],
    ),
    (
        "records of every type that is written",
        include_str!("corefile_types"),
        &[
            "a.types.example AAAA",
            "aaaa.types.example AAAA",
            "afsdb.types.example AAAA",
            "avc.types.example AAAA",
            "caa.types.example AAAA",
            "cdnskey.types.example AAAA",
            "cds.types.example AAAA",
            "cert.types.example AAAA",
            "csync.types.example AAAA",
            "dhcid.types.example AAAA",
            "dlv.types.example AAAA",
            "dname.types.example AAAA",
            "dnskey.types.example AAAA",
            "ds.types.example AAAA",
            "eid.types.example AAAA",
            "eui48.types.example AAAA",
            "eui64.types.example AAAA",
            "gid.types.example AAAA",
            "gpos.types.example AAAA",
            "hinfo.types.example AAAA",
            "https.types.example AAAA",
            "key.types.example AAAA",
            "kx.types.example AAAA",
            "l32.types.example AAAA",
            "l64.types.example AAAA",
            "lp.types.example AAAA",
            "mb.types.example AAAA",
            "md.types.example AAAA",
            "mf.types.example AAAA",
            "mg.types.example AAAA",
            "minfo.types.example AAAA",
            "mr.types.example AAAA",
            "mx.types.example AAAA",
            "naptr.types.example AAAA",
            "nid.types.example AAAA",
            "nimloc.types.example AAAA",
            "ninfo.types.example AAAA",
            "ns.types.example AAAA",
            "nsap-ptr.types.example AAAA",
            "nsec3param.types.example AAAA",
            "openpgpkey.types.example AAAA",
            "ptr.types.example AAAA",
            "px.types.example AAAA",
            "resinfo.types.example AAAA",
            "rkey.types.example AAAA",
            "rp.types.example AAAA",
            "rt.types.example AAAA",
            "smimea.types.example AAAA",
            "soa.types.example AAAA",
            "spf.types.example AAAA",
            "srv.types.example AAAA",
            "sshfp.types.example AAAA",
            "svcb.types.example AAAA",
            "ta.types.example AAAA",
            "talink.types.example AAAA",
            "tlsa.types.example AAAA",
            "txt.types.example AAAA",
            "isdn.types.example AAAA",
            "uinfo.types.example AAAA",
            "uid.types.example AAAA",
            "uri.types.example AAAA",
            "x25.types.example AAAA",
            "zonemd.types.example AAAA",
            "type4711.types.example AAAA",
            "loc.types.example AAAA",
        ],
    ),
    (
        "who asks",
        ". {
            whoami
        }",
        &["www.example A", "www.example AAAA", "www.example TXT"],
    ),
];
