//! Rules, chains and sets as the kernel shows them, so that they can be compared with what this agent would write.
//!
//! The kernel shows what it was told, but not byte for byte: it orders attributes as it likes, leaves out zeros that say nothing or adds them, and
//! spells some things out. What is left after that must be equal; whatever else there is was written by somebody else.

use super::expr::Expr;
use super::layout::{ChainSpec, Hook};
use super::sets::VERDICT_DATA;
use super::wire::{Attributes, Writer};
use std::collections::BTreeMap;

/// `NF_ACCEPT`.
const ACCEPT: u32 = 1;
/// `NF_NAT_RANGE_MAP_IPS` and `NF_NAT_RANGE_PROTO_SPECIFIED`, which follow from the registers.
const NAT_BY_REGISTERS: u32 = 3;

/// An expression: its name, and its attributes by their path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownExpr {
    name: String,
    attributes: BTreeMap<Vec<u16>, Vec<u8>>,
}

/// A rule's expressions, in order.
pub type ShownRule = Vec<ShownExpr>;

/// A chain without its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownChain {
    hook: Option<(String, u32, i32)>,
    policy: u32,
}

/// How a set is declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownSet {
    /// Flags, types and lengths of key and data.
    numbers: [u32; 5],
    size: u32,
    timeout: u64,
    expression: Option<String>,
}

/// A rule from the list of its expressions.
pub fn rule(list: Attributes<'_>) -> ShownRule {
    list.into_iter().map(|(_, one)| expression(Attributes(one))).collect()
}

/// A rule as the kernel shows it when it was written by this agent.
pub fn written(rule: &[Expr]) -> ShownRule {
    let mut writer = Writer::default();
    rule.iter().for_each(|expression| expression.write(&mut writer));
    self::rule(Attributes(&writer.finish()))
}

fn expression(element: Attributes<'_>) -> ShownExpr {
    let name = element.string(1).unwrap_or_default().to_string();
    let mut attributes = BTreeMap::new();
    collect(&name, &mut Vec::new(), element.nested(2).unwrap_or(Attributes(&[])), &mut attributes);
    if name == "nat" {
        // The end of a range is shown as its beginning, and flags that the kernel has added itself.
        for (last, first) in [(4, 3), (6, 5)] {
            if attributes.get(&vec![last]) == attributes.get(&vec![first]) {
                attributes.remove(&vec![last]);
            }
        }
        if let Some(flags) = attributes.remove(&vec![7]) {
            let flags = flags.try_into().map_or(u32::MAX, u32::from_be_bytes) & !NAT_BY_REGISTERS;
            if flags != 0 {
                attributes.insert(vec![7], flags.to_be_bytes().to_vec());
            }
        }
    }
    ShownExpr { name, attributes }
}

fn collect(name: &str, path: &mut Vec<u16>, attributes: Attributes<'_>, into: &mut BTreeMap<Vec<u16>, Vec<u8>>) {
    for (kind, value) in attributes {
        path.push(kind);
        if is_nest(name, path) {
            collect(name, path, Attributes(value), into);
        } else if path.len() > 1 || value.iter().any(|byte| *byte != 0) {
            into.insert(path.clone(), value.to_vec());
        }
        path.pop();
    }
}

/// Where data stands, and a verdict in it.
fn is_nest(name: &str, path: &[u16]) -> bool {
    matches!((name, path), ("cmp", [3]) | ("bitwise", [4 | 5]) | ("immediate", [2] | [2, 2]))
}

impl ShownChain {
    /// As the kernel's message shows it.
    pub fn read(attributes: Attributes<'_>) -> ShownChain {
        let hook = attributes.nested(4).and_then(|hook| {
            let kind = attributes.string(7).unwrap_or_default().to_string();
            Some((kind, hook.u32(1)?, hook.u32(2)?.cast_signed()))
        });
        ShownChain { hook, policy: attributes.u32(5).unwrap_or(ACCEPT) }
    }

    /// As it is shown when this agent has made it.
    pub fn written(chain: &ChainSpec) -> ShownChain {
        let hook = chain.hook.map(|Hook { kind, number, priority }| (kind.to_string(), number, priority));
        ShownChain { hook, policy: ACCEPT }
    }
}

impl ShownSet {
    /// As the kernel's message shows it, or as this agent would write it.
    pub fn read(attributes: Attributes<'_>) -> ShownSet {
        let expression = attributes.nested(17).and_then(|expression| expression.string(1)).map(str::to_string);
        let mut numbers = [3, 4, 5, 6, 7].map(|kind| attributes.u32(kind).unwrap_or_default());
        if numbers[3] == VERDICT_DATA {
            // The kernel shows how long verdicts are in its memory.
            numbers[4] = 0;
        }
        ShownSet {
            numbers,
            size: attributes.nested(9).and_then(|description| description.u32(1)).unwrap_or_default(),
            timeout: attributes.u64(11).unwrap_or_default(),
            expression,
        }
    }

    /// As it is shown when this agent has made it, by what `fill` writes.
    pub fn written(fill: impl FnOnce(&mut Writer)) -> ShownSet {
        let mut writer = Writer::default();
        fill(&mut writer);
        ShownSet::read(Attributes(&writer.finish()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nft::expr::{Answer, Base, META_MARK, Verdict};

    /// An attribute's type and value.
    type Attribute<'a> = (u16, &'a [u8]);

    /// A rule's expressions as some kernel might show them.
    fn shown(expressions: &[(&str, &[Attribute<'_>])]) -> ShownRule {
        let mut writer = Writer::default();
        for (name, attributes) in expressions {
            writer.nest(1, |list| {
                list.string(1, name);
                list.nest(2, |data| attributes.iter().for_each(|(kind, value)| data.bytes(*kind, value)));
            });
        }
        rule(Attributes(&writer.finish()))
    }

    #[test]
    fn order_and_zeros_are_the_kernels_and_everything_else_counts() {
        let lookup = written(&[Expr::Lookup { set: "services", key: 0, answer: Answer::Present }]);
        let register: &[u8] = &[0, 0, 0, 1];
        assert_eq!(lookup, shown(&[("lookup", &[(2, register), (1, b"services\0"), (5, &[0; 4])])]));
        assert_ne!(lookup, shown(&[("lookup", &[(2, register), (1, b"services\0"), (5, &[0, 0, 0, 1])])]), "inverted");
        assert_ne!(lookup, shown(&[("lookup", &[(2, &[0, 0, 0, 9]), (1, b"services\0")])]), "another register");
        assert_ne!(lookup, shown(&[("lookup", &[(2, register), (1, b"endpoints\0")])]), "another set");
        assert_ne!(lookup, shown(&[("lookup", &[(2, register), (1, b"services\0")]), ("counter", &[])]), "one more");
    }

    #[test]
    fn translation_is_shown_with_what_follows_from_its_registers() {
        let dnat = written(&[Expr::Dnat { protocol: 2, address: 0, port: 1 }]);
        let be = |number: u32| number.to_be_bytes();
        let with = |last: u32, flags: u32| {
            let (kind, family, address, port) = (be(1), be(2), be(1), be(9));
            shown(&[("nat", &[(1, &kind), (2, &family), (3, &address), (4, &be(last)), (5, &port), (6, &port), (7, &be(flags))])])
        };
        assert_eq!(dnat, with(1, 3));
        assert_ne!(dnat, with(2, 3), "a range of addresses");
        assert_ne!(dnat, with(1, 3 | 8), "always the same one for a client");
    }

    #[test]
    fn another_verdict_constant_or_offset_is_another_rule() {
        let load = |offset| Expr::Payload { base: Base::Network, offset, length: 4, to: 0 };
        let goto = |chain: &str| Expr::Verdict(Verdict::Goto(chain.into()));
        let compare = |value: u8| Expr::Compare { register: 0, differs: true, value: vec![0, 0, 0, value] };
        let bits = |mask| Expr::Bitwise { register: 0, mask, xor: 0 };
        let rule = written(&[load(16), bits(0x4000), compare(0), goto("balance")]);
        assert_eq!(rule, written(&[load(16), bits(0x4000), compare(0), goto("balance")]));
        assert_ne!(rule, written(&[load(12), bits(0x4000), compare(0), goto("balance")]));
        assert_ne!(rule, written(&[load(16), bits(0x8000), compare(0), goto("balance")]));
        assert_ne!(rule, written(&[load(16), bits(0x4000), compare(1), goto("balance")]));
        assert_ne!(rule, written(&[load(16), bits(0x4000), compare(0), goto("guard")]));
        assert_ne!(rule, written(&[load(16), bits(0x4000), compare(0), Expr::Verdict(Verdict::Drop)]));
        assert_ne!(written(&[Expr::Meta { key: META_MARK, to: 0 }]), written(&[Expr::SetMark { from: 0 }]));
    }
}
