// SPDX-License-Identifier: MIT OR Apache-2.0
//! `c-tests/misuse.gen.h`: the table for `c-tests/misuse.c`: a row per function, and a way to call
//! each with arguments of any kind.

use std::fmt::Write;

use crate::api::{Api, Arg, Function};

pub fn make(api: &Api) -> String {
    let mut out = String::from(
        "/* SPDX-License-Identifier: MIT OR Apache-2.0 */\n\
         /* Made by apigen from the api.toml files in src/capi; do not edit. For misuse.c alone. */\n\n",
    );
    out.push_str("enum object { NO_OBJECT");
    for object in &api.objects {
        let _ = write!(out, ", {}", object.name.to_uppercase());
    }
    out.push_str(", NUM_OBJECTS };\n\n");
    out.push_str("static const char *const object_names[NUM_OBJECTS] = {\n");
    for object in &api.objects {
        let _ = writeln!(out, "    [{}] = \"{}\",", object.name.to_uppercase(), object.name);
    }
    out.push_str("};\n\n/* Calls from several threads wait for each other. */\n");
    out.push_str("static const int object_waits[NUM_OBJECTS] = {\n");
    for object in api.objects.iter().filter(|object| object.waits) {
        let _ = writeln!(out, "    [{}] = 1,", object.name.to_uppercase());
    }
    out.push_str("};\n\nstatic const char *const state_names[NUM_OBJECTS][MAX_STATES] = {\n");
    for object in &api.objects {
        let names: Vec<String> =
            object.states.iter().map(|state| format!("{:?}", state.name)).collect();
        let _ = writeln!(out, "    [{}] = {{ {} }},", object.name.to_uppercase(), names.join(", "));
    }
    out.push_str("};\n");
    out.push_str("\nstatic const struct { int number; const char *name; } codes[] = {\n");
    for code in &api.codes {
        let _ = writeln!(out, "    {{ {0}, \"{0}\" }},", code.errno);
    }
    out.push_str("};\n");
    for function in &api.functions {
        let _ = write!(out, "\n{}", thunk(function));
    }
    out.push_str("\nenum row_number {\n");
    for function in &api.functions {
        let _ = writeln!(out, "    ROW_{},", function.name);
    }
    out.push_str("    NUM_ROWS\n};\n\nstatic const struct row rows[NUM_ROWS] = {\n");
    for function in &api.functions {
        out.push_str(&row(api, function));
    }
    out.push_str("};\n");
    out
}

/// A function that takes its arguments from an array.
fn thunk(function: &Function) -> String {
    let value = |(i, (arg, param)): (usize, (&Arg, &crate::cdecl::Param))| match arg {
        Arg::Log => format!("a[{i}].log"),
        Arg::Release => format!("a[{i}].release"),
        Arg::Unmap => format!("a[{i}].unmap"),
        Arg::Len | Arg::Fd | Arg::Number(_) | Arg::Ending => {
            format!("({})a[{i}].number", param.ctype)
        }
        _ => format!("a[{i}].pointer"),
    };
    let both = function.args.iter().zip(&function.proto.params);
    let values: Vec<String> = both.enumerate().map(value).collect();
    let call = format!("{}({})", function.name, values.join(", "));
    let body = match function.proto.ret.as_str() {
        "void" => format!("    {call};\n    return 0;\n"),
        ret if ret.ends_with('*') => format!("    return {call} != NULL ? 0 : -1;\n"),
        _ => format!("    return (long){call};\n"),
    };
    let unused = if values.is_empty() { "    (void)a;\n" } else { "" };
    format!("static long call_{}(const union argument *a)\n{{\n{unused}{body}}}\n", function.name)
}

fn row(api: &Api, function: &Function) -> String {
    let object = |name: Option<&String>| {
        name.map_or_else(|| "NO_OBJECT".to_owned(), |name| name.to_uppercase())
    };
    let mut out = String::from("    {\n");
    let _ = writeln!(out, "        .name = \"{}\",", function.name);
    let _ = writeln!(out, "        .call = call_{},", function.name);
    let _ = writeln!(out, "        .object = {},", object(function.handle.as_ref()));
    let _ = writeln!(out, "        .states = {:#x},", function.mask(api));
    let _ = writeln!(out, "        .wrong_state = {},", function.wrong_state);
    let _ = writeln!(out, "        .concurrent = {},", u8::from(function.concurrent));
    let _ = writeln!(out, "        .no_wait = {},", u8::from(function.no_wait));
    let _ = writeln!(out, "        .num_args = {},", function.args.len());
    if !function.args.is_empty() {
        out.push_str("        .args = {\n");
        for (arg, param) in function.args.iter().zip(&function.proto.params) {
            let _ =
                writeln!(out, "            {{ {} .name = \"{}\" }},", kind(arg, param), param.name);
        }
        out.push_str("        },\n");
    }
    let codes: Vec<&str> = function.errors.iter().map(|(errno, _)| errno.as_str()).collect();
    if !codes.is_empty() {
        let lines = crate::text::fill(
            codes.join(", ").split(' ').collect::<Vec<_>>(),
            100 - "            ".len(),
        );
        let lines: Vec<String> = lines.iter().map(|line| format!("            {line}")).collect();
        let _ = writeln!(out, "        .errors = {{\n{}\n        }},", lines.join("\n"));
    }
    out + "    },\n"
}

fn kind(arg: &Arg, param: &crate::cdecl::Param) -> String {
    let pointee = param.ctype.trim_start_matches("const ").trim_end_matches('*').trim_end();
    match arg {
        Arg::Handle(name) => format!(".kind = A_HANDLE, .object = {},", name.to_uppercase()),
        Arg::Free(name) => format!(".kind = A_FREE, .object = {},", name.to_uppercase()),
        Arg::Out => {
            let name = pointee.trim_start_matches("struct vfiomig_").trim_end_matches([' ', '*']);
            format!(".kind = A_OUT, .object = {}, .size = sizeof(void *),", name.to_uppercase())
        }
        Arg::Struct(name) => format!(".kind = A_STRUCT, .size = sizeof(struct {name}),"),
        Arg::Options(name) => format!(".kind = A_OPTIONS, .size = sizeof(struct {name}),"),
        Arg::In(name) => format!(".kind = A_IN, .size = sizeof(struct {name}),"),
        Arg::Words => ".kind = A_WORDS,".into(),
        Arg::NoWords => ".kind = A_NO_WORDS,".into(),
        Arg::Unmap => ".kind = A_UNMAP,".into(),
        Arg::Ops => ".kind = A_OPS, .size = sizeof(struct vfiomig_device_ops),".into(),
        Arg::Ptr if param.ctype == "void **" => ".kind = A_PTR, .size = sizeof(void *),".into(),
        Arg::Ptr => format!(".kind = A_PTR, .size = sizeof({pointee}),"),
        Arg::Buffer => ".kind = A_BUFFER,".into(),
        Arg::Data => ".kind = A_DATA,".into(),
        Arg::Len => ".kind = A_LEN,".into(),
        Arg::Fd => ".kind = A_FD,".into(),
        Arg::Opaque => ".kind = A_OPAQUE,".into(),
        Arg::Number(value) => format!(".kind = A_NUMBER, .value = {value},"),
        Arg::Log => ".kind = A_LOG,".into(),
        Arg::Release => ".kind = A_RELEASE,".into(),
        Arg::Ending => ".kind = A_ENDING,".into(),
    }
}
