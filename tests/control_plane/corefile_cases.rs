//! Corefiles with the cluster's names for the agent and the stock CoreDNS, with what both are asked.

/// A name, its Corefile and what is asked.
pub type Case = (&'static str, &'static str, Asked);

/// Names with types and more (`corefile_oracle.rs`), separated by blanks.
pub type Asked = &'static [&'static str];

/// Stands for kubeadm's Corefile in the lab.
pub const KUBEADM: &str = "KUBEADM";

/// What Corefiles that people have are asked.
pub const OF_OTHERS: Asked = &[
    "web.default.svc.cluster.local A",
    "web.default.svc.cluster.local AAAA",
    "WEB.default.svc.cluster.local SRV",
    "db.data.svc.cluster.local A",
    "db.data.svc.cluster.local SRV",
    "db-0.db.data.svc.cluster.local A",
    "outside.default.svc.cluster.local A",
    "absent.default.svc.cluster.local A",
    "web.default.svc.cluster.local TXT",
    "10-1-2-3.default.pod.cluster.local A",
    "10.0.96.10.in-addr.arpa PTR",
    "1.2.0.192.in-addr.arpa PTR",
    "9.9.9.9.in-addr.arpa PTR",
    "cluster.local SOA",
    "cluster.local NS",
    "dns-version.cluster.local TXT",
    "www.example.com A",
    "www.example.com AAAA",
    "absent.example.com A",
    "host.minikube.internal A",
    "a.b.c.d.internal.cloudapp.net A",
    "a.internal.cloudapp.net A",
    "reddog.microsoft.com A",
    "authors.bind TXT CH",
];

/// What stands for something of the lab is explained in `corefile_oracle.rs`.
pub const CASES: &[Case] = &[
    (
        // But for what both cannot have.
        "kubeadm",
        KUBEADM,
        &[
            "web.default.svc.cluster.local A",
            "absent.default.svc.cluster.local A",
            "10-1-2-3.default.pod.cluster.local A",
            "www.example.com A",
        ],
    ),
    (
        "settings of the cluster's names",
        ". {
            kubernetes cluster.local other.local 10.0.0.0/8 {
                kubeconfig KUBECONFIG lab
                namespaces default
            }
            loadbalance
        }",
        &[
            "web.default.svc.cluster.local A",
            "web.default.svc.other.local A",
            "plain.data.svc.cluster.local A",
            "data.svc.cluster.local A",
            "10-1-2-3.default.pod.cluster.local A",
            "web.default.svc.cluster.local TXT",
            "10.0.96.10.in-addr.arpa PTR",
            "9.9.9.10.in-addr.arpa PTR",
            "www.example.com A",
        ],
    ),
    (
        "rewriting",
        r". {
            rewrite name shop.example web.default.svc.cluster.local
            rewrite name suffix .apps.example .default.svc.cluster.local answer auto
            rewrite stop {
                name regex (.*)\.old\.example {1}.default.svc.cluster.local
                answer name (.*)\.default\.svc\.cluster\.local {1}.old.example
            }
            rewrite name prefix pre. post. answer auto
            rewrite name substring .mid. . answer auto
            rewrite ttl exact c.example.com 300
            rewrite type MX TXT
            kubernetes cluster.local {
                kubeconfig KUBECONFIG lab
            }
            forward . UPSTREAM
        }",
        &[
            "shop.example A",
            "SHOP.example A",
            "shop.example SRV",
            "web.apps.example A",
            "absent.apps.example A",
            "web.old.example A",
            "pre.example.com A",
            "a.mid.example.com A",
            "c.example.com A",
            "web.default.svc.cluster.local MX",
        ],
    ),
    (
        "EKS's, with a stub domain, a snippet and a cache before hosts",
        "(common) {
            errors
            cache 30
            loop
            reload
            loadbalance
        }
        . {
            import common
            hosts {
                192.0.2.7 printer.example
                fallthrough
            }
            kubernetes cluster.local in-addr.arpa ip6.arpa {
                kubeconfig KUBECONFIG lab
                pods insecure
                fallthrough in-addr.arpa ip6.arpa
            }
            forward . UPSTREAM
        }
        example.com corp.example {
            import common
            hosts {
                192.0.2.9 a.example.com
                fallthrough example.com
                ttl 7
            }
            forward . UPSTREAM {
                policy sequential
            }
        }
        10.0.0.0/8 {
            hosts {
                10.1.2.3 ten.example
            }
        }",
        &[
            "web.default.svc.cluster.local AAAA",
            "web.default.svc.cluster.local A",
            "outside.default.svc.cluster.local A",
            "printer.example A",
            "a.example.com A",
            "b.example.com A",
            "none.example.com A",
            "x.corp.example A",
            "3.2.1.10.in-addr.arpa PTR",
            "4.2.1.10.in-addr.arpa PTR",
            "10.0.96.10.in-addr.arpa SOA",
            "elsewhere.test A",
        ],
    ),
    (
        "pods that exist, and their search paths",
        ". {
            autopath @kubernetes
            kubernetes cluster.local {
                kubeconfig KUBECONFIG lab
                pods verified
            }
            forward . UPSTREAM
        }",
        &[
            "10-244-9-1.default.pod.cluster.local A",
            "10-244-9-1.default.pod.cluster.local AAAA",
            "10-244-9-1.default.pod.cluster.local SRV",
            "10-244-9-1.DEFAULT.pod.cluster.local A",
            "10-244-9-1.data.pod.cluster.local A",
            "fd00-244--9-1.default.pod.cluster.local AAAA",
            "fd00-244--9-2.data.pod.cluster.local AAAA",
            "fd00-244--9-2.data.pod.cluster.local A",
            "10-244-9-3.default.pod.cluster.local A",
            "10-244-9-9.default.pod.cluster.local A",
            "192-0-2-1.default.pod.cluster.local A",
            "default.pod.cluster.local A",
            "www.example.com.default.svc.cluster.local A",
            "www.example.com.svc.cluster.local A",
            "web.default.default.svc.cluster.local A",
            "absent.example.com.default.svc.cluster.local A",
            "www.example.com.data.svc.cluster.local A",
        ],
    ),
    (
        "labels",
        ". {
            kubernetes cluster.local in-addr.arpa {
                kubeconfig KUBECONFIG lab
                pods insecure
                labels app notin (other, back), app
            }
            loadbalance
        }",
        &[
            "shop.front.svc.cluster.local A",
            "shop.front.svc.cluster.local SRV",
            "shop.back.svc.cluster.local A",
            "other.front.svc.cluster.local A",
            "plain.front.svc.cluster.local A",
            "empty.front.svc.cluster.local A",
            "web.default.svc.cluster.local A",
            "front.svc.cluster.local A",
            "10-8-0-1.shop.front.svc.cluster.local A",
            "10-8-0-9.shop.front.svc.cluster.local A",
            "1.0.8.10.in-addr.arpa PTR",
            "9.0.8.10.in-addr.arpa PTR",
            "1.1.8.10.in-addr.arpa PTR",
            "2.1.8.10.in-addr.arpa PTR",
            "10-8-1-2.other.front.svc.cluster.local A",
            "10-1-2-3.front.pod.cluster.local A",
        ],
    ),
    (
        "labels of namespaces",
        ". {
            kubernetes cluster.local in-addr.arpa {
                kubeconfig KUBECONFIG lab
                pods insecure
                namespace_labels tier, !retired
            }
            loadbalance
        }",
        &[
            "shop.front.svc.cluster.local A",
            "shop.back.svc.cluster.local A",
            "web.default.svc.cluster.local A",
            "front.svc.cluster.local A",
            "back.svc.cluster.local A",
            "default.svc.cluster.local A",
            "10-1-2-3.front.pod.cluster.local A",
            "10-1-2-3.back.pod.cluster.local A",
            "front.pod.cluster.local A",
            "back.pod.cluster.local A",
            "1.0.8.10.in-addr.arpa PTR",
            "1.2.8.10.in-addr.arpa PTR",
        ],
    ),
    (
        "names of pods for endpoints",
        ". {
            kubernetes cluster.local in-addr.arpa {
                kubeconfig KUBECONFIG lab
                endpoint_pod_names
            }
            loadbalance
        }",
        &[
            "shop.front.svc.cluster.local A",
            "shop.front.svc.cluster.local SRV",
            "shop-abc.shop.front.svc.cluster.local A",
            "SHOP-abc.shop.front.svc.cluster.local SRV",
            "10-8-0-1.shop.front.svc.cluster.local A",
            "10-8-0-2.shop.front.svc.cluster.local A",
            "10-8-0-9.shop.front.svc.cluster.local A",
            "shop-0.shop.front.svc.cluster.local A",
            "shop-def.shop.front.svc.cluster.local A",
            "shop-ghi.shop.front.svc.cluster.local A",
            "shop-jkl.shop.front.svc.cluster.local A",
            "other-abc.other.front.svc.cluster.local A",
            "1.0.8.10.in-addr.arpa PTR",
            "2.0.8.10.in-addr.arpa PTR",
            "3.0.8.10.in-addr.arpa PTR",
            "6.0.8.10.in-addr.arpa PTR",
            "shop.v2.shop.front.svc.cluster.local A",
            "10-8-0-6.shop.front.svc.cluster.local A",
            "1.1.8.10.in-addr.arpa PTR",
        ],
    ),
    (
        "names for zones of nodes",
        ". {
            kubernetes cluster.local {
                kubeconfig KUBECONFIG lab
                zonal
            }
            loadbalance
        }",
        &[
            "shop.front.svc.cluster.local A",
            "a.pin._zone.shop.front.svc.cluster.local A",
            "A.PIN._zone.shop.front.svc.cluster.local A",
            "a.pin._zone.shop.front.svc.cluster.local AAAA",
            "a.pin._zone.shop.front.svc.cluster.local SRV",
            "a.pin._zone.shop.front.svc.cluster.local HTTPS",
            "west.example.pin._zone.shop.front.svc.cluster.local A",
            "west.pin._zone.shop.front.svc.cluster.local A",
            "example.pin._zone.shop.front.svc.cluster.local TXT",
            "west.prefer._zone.shop.front.svc.cluster.local A",
            "west.prefer._zone.shop.front.svc.cluster.local SRV",
            "a.prefer._zone.shop.front.svc.cluster.local A",
            "a.other._zone.shop.front.svc.cluster.local A",
            "a.pin.zone.shop.front.svc.cluster.local A",
            "pin._zone.shop.front.svc.cluster.local A",
            "_zone.shop.front.svc.cluster.local A",
            "a.pin._zone.other.front.svc.cluster.local A",
            "a.pin._zone.empty.front.svc.cluster.local A",
            "a.prefer._zone.empty.front.svc.cluster.local A",
            "a.pin._zone.absent.front.svc.cluster.local A",
            "a.pin._zone.shop.absent.svc.cluster.local A",
            "a.pin._zone.shop.front.pod.cluster.local A",
        ],
    ),
    (
        "services of other clusters",
        ". {
            kubernetes cluster.local clusterset.local {
                kubeconfig KUBECONFIG lab
                multicluster clusterset.local
            }
            loadbalance
        }",
        &[
            "web.default.svc.cluster.local A",
            "web.default.svc.clusterset.local A",
            "WEB.default.svc.clusterset.local AAAA",
            "web.default.svc.clusterset.local SRV",
            "_http._tcp.web.default.svc.clusterset.local SRV",
            "_http._tcp.web.default.svc.clusterset.local A",
            "_other._tcp.web.default.svc.clusterset.local SRV",
            "http.tcp.web.default.svc.clusterset.local A",
            "10-9-0-9.east.web.default.svc.clusterset.local A",
            "db.data.svc.clusterset.local A",
            "db.data.svc.clusterset.local AAAA",
            "db.data.svc.clusterset.local SRV",
            "_client._tcp.db.data.svc.clusterset.local SRV",
            "db-0.east.db.data.svc.clusterset.local A",
            "db-0.EAST.db.data.svc.clusterset.local SRV",
            "db-0.west.db.data.svc.clusterset.local A",
            "10-9-0-1.east.db.data.svc.clusterset.local A",
            "10-9-0-2.east.db.data.svc.clusterset.local A",
            "10-9-0-3.west.db.data.svc.clusterset.local A",
            "fd00-9--3.west.db.data.svc.clusterset.local AAAA",
            "db-0.db.data.svc.clusterset.local A",
            "east.db.data.svc.clusterset.local A",
            "a.b.c.db.data.svc.clusterset.local A",
            "db.data.svc.cluster.local A",
            "absent.default.svc.clusterset.local A",
            "web.absent.svc.clusterset.local A",
            "default.svc.clusterset.local A",
            "svc.clusterset.local A",
            "clusterset.local A",
            "clusterset.local SOA",
            "clusterset.local NS",
        ],
    ),
    (
        "endpoints without names",
        ". {
            kubernetes cluster.local {
                kubeconfig KUBECONFIG lab
                noendpoints
            }
            loadbalance
        }",
        &[
            "web.default.svc.cluster.local A",
            "web.default.svc.cluster.local SRV",
            "10-1-0-1.web.default.svc.cluster.local A",
            "db.data.svc.cluster.local A",
            "db-0.db.data.svc.cluster.local A",
            "outside.default.svc.cluster.local CNAME",
        ],
    ),
    (
        "services without endpoints",
        ". {
            kubernetes cluster.local in-addr.arpa {
                kubeconfig KUBECONFIG lab
                ignore empty_service
            }
            loadbalance
        }",
        &[
            "web.default.svc.cluster.local A",
            "web.default.svc.cluster.local SRV",
            "idle.default.svc.cluster.local A",
            "idle.default.svc.cluster.local SRV",
            "unnamed.default.svc.cluster.local A",
            "db.data.svc.cluster.local A",
            "outside.default.svc.cluster.local CNAME",
        ],
    ),
    (
        "the cluster's names in a cache, for longer than they say",
        ". {
            cache 20
            kubernetes cluster.local {
                kubeconfig KUBECONFIG lab
                ttl 2
            }
        }",
        &["web.default.svc.cluster.local A", "absent.default.svc.cluster.local A", "db.data.svc.cluster.local SRV"],
    ),
    (
        "search paths of pods that nobody watches",
        ". {
            autopath @kubernetes
            kubernetes cluster.local {
                kubeconfig KUBECONFIG lab
                pods insecure
            }
            forward . UPSTREAM
        }",
        &["www.example.com.default.svc.cluster.local A", "absent.default.svc.cluster.local AAAA"],
    ),
    (
        "services of other clusters in some namespaces",
        ". {
            kubernetes cluster.local clusterset.local {
                kubeconfig KUBECONFIG lab
                multicluster clusterset.local
                namespace_labels tier
            }
            loadbalance
        }",
        &["shop.front.svc.cluster.local A", "shop.front.svc.clusterset.local A", "web.default.svc.clusterset.local A"],
    ),
];
