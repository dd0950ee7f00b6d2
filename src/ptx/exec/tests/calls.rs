//! Functions, and blocks that wait for others.

use super::*;

/// Runs a kernel of 32 threads beside these functions; lane 5's `%r1`.
fn call(functions: &str, body: &str) -> Result<u32, String> {
    let text = kernel(&format!("{body} st.global.u32 [%rd0], %r1;"))
        .replace(".visible .entry", &format!("{functions}\n.visible .entry"));
    let module = Module::parse(&text, "test.ptx").map_err(|e| e.to_string())?;
    let machine = Machine::new(Options::default());
    let out = machine.alloc(256, 16).unwrap();
    machine.fill(out, 256, 0).unwrap();
    let mut params = [out.to_le_bytes(), out.to_le_bytes()].concat();
    params.extend([0; 4]);
    machine
        .launch(&module, "k", [1; 3], [32, 1, 1], 0, &params)
        .map_err(|e| e.to_string())?;
    let mut bytes = [0; 4];
    machine.read(out + 40, &mut bytes).unwrap();
    Ok(u32::from_le_bytes(bytes))
}

const ADD: &str = ".func (.param .b32 sum) add(.param .b32 a, .param .b32 b)\n{\n.reg .b32 %r<9>; .reg .pred %p<3>;\n\
    ld.param.u32 %r1, [a]; ld.param.u32 %r2, [b]; setp.lt.u32 %p1, %r1, 3; @%p1 bra SMALL;\n\
    add.u32 %r3, %r1, %r2; st.param.b32 [sum], %r3; ret;\nSMALL: st.param.b32 [sum], 0; ret;\n}";
const TWICE: &str = ".func (.param .b32 out) twice(.param .b32 a)\n{\n.reg .b32 %r<9>; .local .align 4 .b8 depot[8];\n\
    ld.param.u32 %r1, [a]; st.local.u32 [depot], %r1;\n{ .param .b32 p0; .param .b32 p1; .param .b32 r0;\n\
    st.param.b32 [p0], %r1; st.param.b32 [p1], %r1; call.uni (r0), add, (p0, p1); ld.param.b32 %r2, [r0]; }\n\
    ld.local.u32 %r3, [depot]; add.u32 %r2, %r2, %r3; st.param.b32 [out], %r2; ret;\n}";
const CALL: &str = "{ .param .b32 x; .param .b32 y; st.param.b32 [x], %r0; call.uni (y), twice, (x); ld.param.b32 %r1, [y]; }";

#[test]
fn functions_call_functions() {
    let both = format!("{ADD}\n{TWICE}");
    assert_eq!(call(&both, CALL), Ok(15));
    // Declared before it is defined, as compilers do.
    let declared = format!(".func (.param .b32 out) twice(.param .b32 a);\n{both}");
    assert_eq!(call(&declared, CALL), Ok(15));
    // A call that only some lanes make, and parameters in registers.
    let guarded = "mov.u32 %r1, 7; setp.eq.u32 %p1, %r0, 5; @!%p1 call (%r1), add, (%r0, 1);";
    assert_eq!(call(ADD, guarded), Ok(7));
    assert_eq!(call(ADD, &guarded.replace("!%p1", "%p1")), Ok(6));
}

#[test]
fn functions_by_their_address() {
    let functions = format!(
        "{ADD}\n{TWICE}\n.func (.param .b32 out) half(.param .b32 a)\n{{\n.reg .b32 %r<3>;\nld.param.u32 %r1, [a]; shr.u32 %r1, %r1, 1; st.param.b32 [out], %r1; ret;\n}}\n\
         .global .align 8 .u64 table[2] = {{twice, half}};"
    );
    let body = |which: &str| {
        format!(
            "and.b32 %r2, %r0, 1; mul.wide.u32 %rd1, %r2, 8; mov.u64 %rd2, table; add.u64 %rd2, %rd2, %rd1; ld.global.u64 %rd3, [{which}]; \
             {{ .param .b32 x; .param .b32 y; st.param.b32 [x], %r0; P: .callprototype (.param .b32 _) _ (.param .b32 _); \
             call (y), %rd3, (x), P; ld.param.b32 %r1, [y]; }}"
        )
    };
    assert_eq!(call(&functions, &body("%rd2")), Ok(2));
    assert_eq!(call(&functions, &body("table")), Ok(15));
    let said = call(&functions, &body("%rd0")).unwrap_err();
    assert!(said.contains("a call of what is no function"), "{said}");
}

#[test]
fn calls_that_cannot_be() {
    let itself = ".func me() { call.uni me, (); ret; }";
    let deep: String = (0..70)
        .map(|i| format!(".func f{i}() {{ call.uni f{}, (); ret; }}\n", i + 1))
        .chain([".func f70() { ret; }".to_string()])
        .collect();
    // Each calls the next one twice.
    let wide: String = (0..40)
        .map(|i| {
            format!(
                ".func f{i}() {{ call.uni f{n}, (); call.uni f{n}, (); ret; }}\n",
                n = i + 1
            )
        })
        .chain([".func f40() { ret; }".to_string()])
        .collect();
    for (functions, body, words) in [
        (itself, "call.uni me, ();", "recursion"),
        (ADD, "call.uni add, (%r0);", "another number of parameters"),
        (&deep, "call.uni f0, ();", "calls in calls"),
        (
            &wide,
            "call.uni f0, ();",
            "with the functions that are called",
        ),
        (
            ".extern .func vprintf();",
            "call.uni vprintf, ();",
            "`vprintf` has no body here",
        ),
    ] {
        let said = call(functions, body).unwrap_err();
        assert!(said.contains(words) && said.lines().count() == 1, "{said}");
    }
    let assertion = ".extern .func __assertfail();";
    let said = call(
        assertion,
        "setp.eq.u32 %p1, %r0, 9; @%p1 call.uni __assertfail, ();",
    )
    .unwrap_err();
    assert!(
        said.contains("thread 9") && said.contains("an assertion of the kernel failed"),
        "{said}"
    );
}

/// A barrier across the grid: every block waits until all have come, whatever order they start in.
#[test]
fn blocks_wait_for_others() {
    let wait = |access: &str| {
        kernel(&format!(
            "setp.eq.u32 %p1, %r0, 0; @%p1 atom.global.add.u32 %r1, [%rd19], 1; mov.u32 %r2, 0; \
             L: @%p1 {access}; bar.sync 0; @%p1 st.shared.u32 [cell], %r2; bar.sync 0; ld.shared.u32 %r3, [cell]; \
             setp.lt.u32 %p2, %r3, 6; @%p2 bra L; @%p1 st.global.u32 [%rd0], %r3;"
        ))
    };
    for access in [
        "atom.global.add.u32 %r2, [%rd19], 0",
        "ld.relaxed.gpu.global.u32 %r2, [%rd19]",
    ] {
        let module = Module::parse(&wait(access), "test.ptx").unwrap();
        for (schedule, threads) in [
            (Schedule::Sequential, 1),
            (Schedule::Uniform, 1),
            (Schedule::Pct, 2),
        ] {
            let machine = Machine::new(Options {
                schedule,
                seed: 3,
                threads,
                ..Options::default()
            });
            let memory = machine.alloc(256, 16).unwrap();
            machine.fill(memory, 256, 0).unwrap();
            let mut params = [(memory + 16).to_le_bytes(), memory.to_le_bytes()].concat();
            params.extend([0; 4]);
            // All blocks write the same, in turn: not what is looked at.
            let checks = Checks {
                global_races: false,
                ..Checks::ALL
            };
            let mut machine = machine;
            machine.set_options(Options {
                checks,
                ..machine.options()
            });
            machine
                .launch(&module, "k", [6, 1, 1], [64, 1, 1], 0, &params)
                .unwrap();
            let mut bytes = [0; 4];
            machine.read(memory + 16, &mut bytes).unwrap();
            assert_eq!(u32::from_le_bytes(bytes), 6, "{access} {schedule:?}");
        }
    }
}
