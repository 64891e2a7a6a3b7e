//! `#[wire]`: what every value on the wire has in common, said once.
//!
//! Invariants: an `Option` that is `None` is left out of the JSON unless its field says
//! `#[wire(null)]`; a type that is a call's parameters refuses what it does not know, and a
//! stream's replies may be of phases that nobody knows yet; nothing here knows what the values
//! mean, or who sends them.

use proc_macro::TokenStream;
use proc_macro2::TokenStream as Tokens;
use quote::quote;
use syn::parse::Parser;
use syn::{
    Attribute, Data, DeriveInput, Error, Field, Ident, Result, Type, parse_macro_input, parse_quote,
};

/// Makes a struct, or an enum of words, a value of the wire.
///
/// It is `Clone`, `Debug`, `PartialEq`, `Serialize`, `Deserialize` and `JsonSchema`, a struct and
/// an enum with a `#[default]` word `Default`, too. Of its fields, an `Option` that is `None` is
/// left out; with `#[wire(null)]` it is null. A type named `…In` is the parameters of the method of
/// that name, `…Out` its reply: that is their doc comment unless they have another. A field whose
/// name says all needs none.
///
/// * `#[wire(request)]`, and every `…In`: fields that it does not have are refused.
/// * `#[wire(phase)]`: an enum of the replies of a stream, which their field `phase` tells apart:
///   of a variant `Done(…)` it is `done`. The last variant has every other phase, those of a newer
///   provider among them: what it holds has a field `phase` of its own.
/// * `#[wire(secret)]`: it has a `Debug` of its own, for a field may hold a password.
/// * `#[wire(Copy, Eq)]`: it derives these, too.
#[proc_macro_attribute]
pub fn wire(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let item = parse_macro_input!(item as DeriveInput);
    expand(arguments.into(), item).unwrap_or_else(Error::into_compile_error).into()
}

/// What stands in the attribute's brackets.
#[derive(Default)]
struct Options {
    /// Unknown fields are refused.
    request: bool,
    /// `Debug` is written by hand.
    secret: bool,
    /// An enum's variants are told apart by `phase`.
    phase: bool,
    /// What else is derived.
    derives: Vec<Ident>,
}

impl Options {
    fn parse(arguments: Tokens) -> Result<Self> {
        let mut options = Self::default();
        let parser =
            syn::meta::parser(|meta| {
                let option = meta.path.require_ident()?;
                match option.to_string().as_str() {
                    "request" => options.request = true,
                    "secret" => options.secret = true,
                    "phase" => options.phase = true,
                    derive if derive.starts_with(char::is_uppercase) => {
                        options.derives.push(option.clone());
                    }
                    _ => return Err(meta.error(
                        "expected `request`, `secret`, `phase`, or the name of a trait to derive",
                    )),
                }
                Ok(())
            });
        parser.parse2(arguments)?;
        Ok(options)
    }
}

fn expand(arguments: Tokens, mut item: DeriveInput) -> Result<Tokens> {
    let options = Options::parse(arguments)?;
    let name = item.ident.to_string();
    let mut derives = quote!(Clone, PartialEq, ::serde::Serialize, ::schemars::JsonSchema);
    let reading = if options.phase {
        read_by_phase(&mut item)?
    } else {
        derives.extend(quote!(, ::serde::Deserialize));
        Tokens::new()
    };
    if !options.secret {
        derives.extend(quote!(, Debug));
    }
    for derive in &options.derives {
        derives.extend(quote!(, #derive));
    }
    let has_default = match &mut item.data {
        Data::Struct(data) => {
            for field in &mut data.fields {
                settle(field)?;
            }
            true
        }
        Data::Enum(data) => {
            for field in data.variants.iter_mut().flat_map(|variant| &mut variant.fields) {
                settle(field)?;
            }
            data.variants.iter().any(|variant| {
                variant.attrs.iter().any(|attribute| attribute.path().is_ident("default"))
            })
        }
        Data::Union(_) => return Err(Error::new_spanned(&item.ident, "a union has no JSON")),
    };
    if has_default {
        derives.extend(quote!(, Default));
    }
    if !is_documented(&item.attrs) {
        let of = |kind: &str, method: &str| format!("{kind} of `{method}`.");
        let text = match (name.strip_suffix("In"), name.strip_suffix("Out")) {
            (Some(method), _) => Some(of("Parameters", method)),
            (None, Some(method)) => Some(of("Reply", method)),
            (None, None) => None,
        };
        if let Some(text) = text {
            item.attrs.push(parse_quote!(#[doc = #text]));
        }
    }
    let refusal = if options.request || name.ends_with("In") {
        quote!(#[serde(deny_unknown_fields)])
    } else {
        quote!()
    };
    Ok(quote! {
        #[derive(#derives)]
        #refusal
        #item
        #reading
    })
}

/// Has an enum written with its variant's name as `phase`, the last variant as it is, and gives
/// what reads it.
///
/// What reads it is not derived: a reply of a known phase that is not what it should be would be
/// taken for one of the last variant.
fn read_by_phase(item: &mut DeriveInput) -> Result<Tokens> {
    let name = item.ident.clone();
    let Data::Enum(data) = &mut item.data else {
        return Err(Error::new_spanned(name, "expected an enum: its variants are the phases"));
    };
    let mut known: Vec<Ident> = data.variants.iter().map(|variant| variant.ident.clone()).collect();
    let (Some(other), Some(last)) = (known.pop(), data.variants.last_mut()) else {
        return Err(Error::new_spanned(
            name,
            "expected a variant for the phases that are not known",
        ));
    };
    last.attrs.push(parse_quote!(#[serde(untagged)]));
    item.attrs.push(parse_quote!(#[serde(tag = "phase", rename_all = "lowercase")]));
    item.attrs.push(parse_quote!(#[allow(clippy::large_enum_variant, reason = "a reply is made, sent and gone")]));
    let words = known.iter().map(|variant| variant.to_string().to_lowercase());
    Ok(quote! {
        impl<'de> ::serde::Deserialize<'de> for #name {
            fn deserialize<D: ::serde::Deserializer<'de>>(
                deserializer: D,
            ) -> ::core::result::Result<Self, D::Error> {
                let reply =
                    <::serde_json::Value as ::serde::Deserialize>::deserialize(deserializer)?;
                let read = match reply["phase"].as_str() {
                    #(Some(#words) => ::serde_json::from_value(reply).map(Self::#known),)*
                    _ => ::serde_json::from_value(reply).map(Self::#other),
                };
                read.map_err(<D::Error as ::serde::de::Error>::custom)
            }
        }
    })
}

/// Says of a field what holds of all of its kind.
fn settle(field: &mut Field) -> Result<()> {
    let mut is_null = false;
    let mut others: Vec<Attribute> = Vec::with_capacity(field.attrs.len() + 2);
    for attribute in std::mem::take(&mut field.attrs) {
        if !attribute.path().is_ident("wire") {
            others.push(attribute);
            continue;
        }
        attribute.parse_nested_meta(|meta| {
            is_null = meta.path.is_ident("null");
            if is_null { Ok(()) } else { Err(meta.error("expected `null`")) }
        })?;
    }
    match (is_option(&field.ty), is_null) {
        (true, false) => {
            others.push(parse_quote!(#[serde(default, skip_serializing_if = "Option::is_none")]));
        }
        (false, true) => return Err(Error::new_spanned(&field.ty, "only an `Option` can be null")),
        _ => {}
    }
    if !is_documented(&others) {
        others.push(parse_quote!(#[allow(missing_docs)]));
    }
    field.attrs = others;
    Ok(())
}

fn is_documented(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| attribute.path().is_ident("doc"))
}

fn is_option(ty: &Type) -> bool {
    matches!(ty, Type::Path(path) if path.path.segments.last().is_some_and(|last| last.ident == "Option"))
}
