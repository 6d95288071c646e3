//! Names that lead past the table: headless services, whose names resolve to their pods, and aliases.

use super::endpoints::{conditions, object, path};
use super::resolve::{LeadsTo, Named};
use super::{Account, Cause, From, Question, Source, SourceKind, SourceSeen, Target, Unused, Used, Verdict, View};
use crate::model::{Endpoint, Family, Slice};

impl View<'_> {
    /// The account of a name that leads past the table.
    pub(super) fn named(&self, question: &Question, name: &Named<'_>) -> Account {
        let target = Target {
            address: None,
            port: name.port,
            protocol: name.protocol.name().into(),
            service: Some(name.service.key.to_string()),
            port_name: None,
            kind: None,
        };
        let mut account = Account::new(asker(question), target);
        match &name.leads_to {
            LeadsTo::Alias(alias) => {
                account.summary = format!("the name is an alias for {alias}, which is resolved elsewhere; no rule is asked");
                let object = format!("Service {}", name.service.key);
                account.because = vec![Cause::new(object, "spec.externalName", alias)];
            }
            LeadsTo::Endpoints(slices) => self.lead_to_pods(&mut account, name, slices),
        }
        account
    }

    fn lead_to_pods(&self, account: &mut Account, name: &Named<'_>, slices: &[&Slice]) {
        let family = account.from.address.map(Family::of);
        let of_family = slices.iter().filter(|slice| family.is_none_or(|family| family == slice.family));
        let all = of_family.flat_map(|slice| slice.endpoints.iter().map(move |endpoint| (*slice, endpoint)));
        let (ready, others): (Vec<_>, Vec<_>) = all.partition(|(_, endpoint)| endpoint.ready);
        let share = (1000.0 / ready.len() as f64).round() / 10.0;
        let node = |endpoint: &Endpoint| endpoint.node.as_deref().map(str::to_string);
        account.endpoints = ready
            .iter()
            .map(|(slice, endpoint)| Used {
                address: endpoint.address,
                port: name.port,
                share,
                source: SourceSeen::Kept,
                local: endpoint.node.as_deref() == Some(&self.context.node_name),
                node: node(endpoint),
                because: Cause::new(object(slice), path(slice, endpoint, ""), conditions(endpoint)),
            })
            .collect();
        account.unused = others
            .iter()
            .map(|(slice, endpoint)| Unused {
                address: endpoint.address,
                port: name.port,
                node: node(endpoint),
                why: "it is not ready".into(),
                because: Cause::new(object(slice), path(slice, endpoint, ".conditions"), conditions(endpoint)),
            })
            .collect();
        account.because = vec![Cause::new(format!("Service {}", name.service.key), "spec.clusterIP", "None")];
        (account.verdict, account.summary) = match ready.len() {
            0 => (Verdict::Unresolved, "the Service is headless and has no ready endpoint: its name has no address".to_string()),
            count => {
                let pods = if count == 1 {
                    "the address of its one ready endpoint".into()
                } else {
                    format!("the addresses of its {count} ready endpoints")
                };
                (Verdict::Untouched, format!("the Service is headless: its name resolves to {pods}, and no rule is asked"))
            }
        };
        account.notes.extend(wrong_port(name, slices));
    }
}

/// Nobody translates the port of a headless service, which surprises those who ask for the port of the Service.
fn wrong_port(name: &Named<'_>, slices: &[&Slice]) -> Option<String> {
    let mut numbers: Vec<u16> = slices.iter().flat_map(|slice| slice.ports.iter().map(|port| port.port)).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let is_wrong = !numbers.is_empty() && !numbers.contains(&name.port);
    let listed = numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    is_wrong.then(|| {
        format!("the port of a headless Service is not translated: its endpoints listen on {listed}, not on {}", name.port)
    })
}

fn asker(question: &Question) -> Source {
    let (address, kind) = match &question.from {
        From::Address(address) => (Some(*address), SourceKind::Pod),
        From::Pod(addresses) => (addresses.first().copied(), SourceKind::Pod),
        From::Node => (None, SourceKind::Node),
        From::Outside => (None, SourceKind::Outside),
    };
    Source { address, kind }
}
