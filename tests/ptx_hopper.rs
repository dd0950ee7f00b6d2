//! sm_90's instructions that the Triton jobs do not use, in hand-written PTX: what they compute, and
//! what is said when they are misused. Each under three schedules.

use u2pl_engine::ptx::{Arch, Machine, Module, Options, Schedule};

/// Runs a body with `%rd1` = 256 words that count from 0, `%rd2` = 256 words of 7, `%r1` = the thread,
/// `%r2` = 1 KiB of shared memory, `%r3` = an mbarrier behind it. Gives the second array back.
fn run(threads: u32, body: &str, schedule: Schedule) -> Result<Vec<u32>, String> {
    let text = format!(
        ".version 8.7\n.target sm_90a\n.address_size 64\n.extern .shared .align 1024 .b8 memory[];\n\
         .visible .entry k(.param .u64 a, .param .u64 b) {{\n.reg .pred %p<9>;\n.reg .b32 %r<40>;\n.reg .b64 %rd<20>;\n\
         ld.param.u64 %rd1, [a];\nld.param.u64 %rd2, [b];\nmov.u32 %r1, %tid.x;\nmov.u32 %r2, memory;\n\
         add.u32 %r3, %r2, 1024;\nsetp.eq.u32 %p1, %r1, 0;\n{body}\nret;\n}}\n"
    );
    let module = Module::parse(&text, "k.ptx").map_err(|e| e.to_string())?;
    let machine = Machine::new(Options {
        arch: Arch::Sm90a,
        schedule,
        seed: 5,
        max_instructions: 1 << 16,
        ..Options::default()
    });
    let (a, b) = (
        machine.alloc(1024, 256).unwrap(),
        machine.alloc(1024, 256).unwrap(),
    );
    machine
        .write(
            a,
            &(0..256u32).flat_map(u32::to_le_bytes).collect::<Vec<u8>>(),
        )
        .unwrap();
    machine
        .write(b, &[7u32.to_le_bytes(); 256].concat())
        .unwrap();
    let params: Vec<u8> = [a, b]
        .iter()
        .flat_map(|address| address.to_le_bytes())
        .collect();
    machine
        .launch(&module, "k", [1; 3], [threads, 1, 1], 2048, &params)
        .map_err(|e| e.to_string())?;
    let mut out = vec![0; 1024];
    machine.read(b, &mut out).unwrap();
    Ok(out
        .as_chunks::<4>()
        .0
        .iter()
        .map(|word| u32::from_le_bytes(*word))
        .collect())
}

const SCHEDULES: [Schedule; 3] = [Schedule::Sequential, Schedule::Uniform, Schedule::Pct];

const INIT: &str = "@%p1 mbarrier.init.shared::cta.b64 [%r3], 1;\nfence.mbarrier_init.release.cluster;\nbar.sync 0;\n";
const LOAD: &str = "@%p1 mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 %rd3, [%r3], 1024;\n\
    @%p1 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r2], [%rd1], 1024, [%r3];\n";
const WAIT: &str = "WAIT: mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 %p2, [%r3], 0, 1000;\n@!%p2 bra WAIT;\n";
/// Each thread copies its word of shared memory out.
const OUT: &str = "shl.b32 %r10, %r1, 2;\nadd.u32 %r11, %r2, %r10;\nld.shared.u32 %r12, [%r11];\ncvt.u64.u32 %rd10, %r10;\n\
    add.u64 %rd11, %rd2, %rd10;\nst.global.u32 [%rd11], %r12;\n";

#[test]
fn what_they_compute() {
    let counting: Vec<u32> = (0..256).collect();
    let fill = "shl.b32 %r20, %r1, 2;\nadd.u32 %r21, %r2, %r20;\nst.shared.u32 [%r21], %r1;\nfence.proxy.async.shared::cta;\nbar.sync 0;\n";
    let store = |what: &str| {
        format!(
            "{fill}@%p1 {what};\n@%p1 cp.async.bulk.commit_group;\n@%p1 cp.async.bulk.wait_group 0;"
        )
    };
    let ampere = "mad.wide.u32 %rd4, %r1, 4, %rd1;\nshl.b32 %r20, %r1, 2;\nadd.u32 %r21, %r2, %r20;\n\
        cp.async.ca.shared.global [%r21], [%rd4], 4;\n";
    let put = "mad.wide.u32 %rd11, %r1, 4, %rd2;\nst.global.u32 [%rd11], %r12;\n";
    let table: Vec<(&str, String, Vec<u32>)> = vec![
        (
            "bulk load",
            format!("{INIT}{LOAD}{WAIT}{OUT}"),
            counting.clone(),
        ),
        (
            "expect_tx apart from the arrival, generic addresses, test_wait by parity",
            format!(
                "cvt.u64.u32 %rd5, %r3;\ncvta.shared.u64 %rd6, %rd5;\n{INIT}\
                 @%p1 mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%r3], 1024;\n\
                 @%p1 mbarrier.arrive.b64 _, [%rd6];\n\
                 @%p1 cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes.L2::cache_hint [%r2], [%rd1], 1024, [%r3], %rd9;\n\
                 SPIN: mbarrier.test_wait.parity.b64 %p2, [%rd6], 0;\n@!%p2 bra SPIN;\n{OUT}"
            ),
            counting.clone(),
        ),
        (
            "a warp alone that asks and never waits",
            format!(
                "setp.lt.u32 %p4, %r1, 32;\n@!%p4 bra DONE;\n@%p1 mbarrier.init.shared::cta.b64 [%r3], 1;\nfence.mbarrier_init.release.cluster;\nbar.warp.sync -1;\n{LOAD}\
                 SPIN: mbarrier.test_wait.parity.shared::cta.b64 %p2, [%r3], 0;\n@!%p2 bra SPIN;\nmov.u32 %r20, 0;\n\
                 MORE: shl.b32 %r21, %r1, 2;\nadd.u32 %r21, %r21, %r20;\nadd.u32 %r22, %r2, %r21;\nld.shared.u32 %r12, [%r22];\n\
                 cvt.u64.u32 %rd10, %r21;\nadd.u64 %rd11, %rd2, %rd10;\nst.global.u32 [%rd11], %r12;\n\
                 add.u32 %r20, %r20, 128;\nsetp.lt.u32 %p5, %r20, 1024;\n@%p5 bra MORE;\nDONE:"
            ),
            counting.clone(),
        ),
        (
            "a token, and arrivals of every thread",
            format!(
                "@%p1 mbarrier.init.shared.b64 [%r3], 256;\nbar.sync 0;\n{}\
                 mbarrier.arrive.shared.b64 %rd3, [%r3];\n\
                 SPIN: mbarrier.test_wait.shared.b64 %p2, [%r3], %rd3;\n@!%p2 bra SPIN;\n{}{put}",
                "shl.b32 %r20, %r1, 2;\nadd.u32 %r21, %r2, %r20;\nst.shared.u32 [%r21], %r1;\n",
                "xor.b32 %r22, %r20, 1020;\nadd.u32 %r23, %r2, %r22;\nld.shared.u32 %r12, [%r23];\n"
            ),
            counting.iter().rev().copied().collect(),
        ),
        (
            "bulk store",
            store("cp.async.bulk.global.shared::cta.bulk_group [%rd2], [%r2], 1024"),
            counting.clone(),
        ),
        (
            "bulk reduction",
            store("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [%rd2], [%r2], 1024"),
            counting.iter().map(|n| n + 7).collect(),
        ),
        (
            "bulk maximum",
            store("cp.reduce.async.bulk.global.shared::cta.bulk_group.max.s32 [%rd2], [%r2], 1024"),
            counting.iter().map(|n| (*n).max(7)).collect(),
        ),
        (
            "cp.async that arrives on the barrier",
            format!(
                "@%p1 mbarrier.init.shared.b64 [%r3], 256;\nbar.sync 0;\n{ampere}\
                 cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%r3];\n{WAIT}{OUT}"
            ),
            counting.clone(),
        ),
        (
            "cp.async that adds its own arrival",
            format!(
                "@%p1 mbarrier.init.shared.b64 [%r3], 256;\nbar.sync 0;\n{ampere}\
                 cp.async.mbarrier.arrive.shared.b64 [%r3];\nmbarrier.arrive.shared.b64 _, [%r3];\n{WAIT}{OUT}"
            ),
            counting.clone(),
        ),
        (
            "arrive_drop leaves fewer for the next phase; pending_count",
            format!(
                "@%p1 mbarrier.init.shared.b64 [%r3], 2;\nbar.sync 0;\nmov.u32 %r12, 0;\n@!%p1 bra DONE;\n\
                 mbarrier.arrive_drop.shared.b64 %rd3, [%r3];\nmbarrier.arrive.shared.b64 %rd4, [%r3], 1;\n\
                 mbarrier.arrive.shared.b64 %rd5, [%r3];\nmbarrier.pending_count.b64 %r13, %rd3;\n\
                 mbarrier.pending_count.b64 %r14, %rd5;\nshl.b32 %r13, %r13, 4;\nor.b32 %r12, %r13, %r14;\n\
                 DONE:\n{put}"
            ),
            std::iter::once(0x21).chain(vec![0; 255]).collect(),
        ),
        (
            "elect, mapa, policies, setmaxnreg, griddepcontrol",
            format!(
                "griddepcontrol.wait;\ngriddepcontrol.launch_dependents;\nsetmaxnreg.inc.sync.aligned.u32 128;\n\
                 createpolicy.fractional.L2::evict_last.b64 %rd9, 0f3F800000;\nmapa.shared::cluster.u32 %r30, %r1, 0;\n\
                 elect.sync %r31|%p3, 0xFFFFFFFF;\nselp.u32 %r12, 1000, %r30, %p3;\n{put}"
            ),
            counting
                .iter()
                .map(|n| if n % 32 == 0 { 1000 } else { *n })
                .collect(),
        ),
    ];
    for (name, body, want) in table {
        for schedule in SCHEDULES {
            let got =
                run(256, &body, schedule).unwrap_or_else(|e| panic!("{name}, {schedule:?}: {e}"));
            assert_eq!(got, want, "{name}, {schedule:?}");
        }
    }
}

#[test]
fn what_is_said_of_misuse() {
    let table: Vec<(String, &str)> = vec![
        (format!("{INIT}{LOAD}bar.sync 0;\n{OUT}"), "has not been waited for"),
        (format!("{INIT}{LOAD}"), "has not landed"),
        (format!("{INIT}{WAIT}"), "waits for 1 arrival and 0 bytes"),
        (format!("{LOAD}{WAIT}"), "which nobody wrote"),
        (INIT.replace("], 1;", "], 0;"), "count of 0"),
        (format!("{INIT}mbarrier.arrive.shared.b64 _, [%r3], 2;"), "2 more arrivals"),
        (format!("{INIT}@%p1 mbarrier.arrive.noComplete.shared.b64 %rd3, [%r3], 1;"), "noComplete completes"),
        (format!("{INIT}@%p1 mbarrier.inval.shared.b64 [%r3];\n@%p1 mbarrier.arrive.shared.b64 _, [%r3];"), "no mbarrier here"),
        (format!("{INIT}{}{WAIT}", LOAD.replace("1024;", "1008;")), "16 bytes more came"),
        (format!("{INIT}{}", LOAD.replace("[%rd1]", "[%rd1+8]")), "multiples of 16"),
        (format!("{INIT}{}", LOAD.replace("[%rd1]", "[%rd1+512]")), "out of bounds"),
        (format!("{INIT}{}", LOAD.replace("[%r2]", "[%r2+1536]")), "out of bounds"),
        // No barrier between the initialisation and its use by another warp, which may even come first.
        ("@%p1 mbarrier.init.shared.b64 [%r3], 256;\nmbarrier.arrive.shared.b64 _, [%r3];".into(), "race|nobody wrote"),
        (
            "@%p1 st.shared.u32 [%r2], %r1;\n@%p1 cp.async.bulk.global.shared::cta.bulk_group [%rd2], [%r2], 16;".into(),
            "no fence.proxy.async",
        ),
        (
            "and.b32 %r31, %r1, 1;\nsetp.eq.u32 %p6, %r31, 0;\n\
             wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%r4,%r5,%r6,%r7}, %rd5, %rd6, %p6, 1, 1, 0, 0;"
                .into(),
            "differs",
        ),
        ("@%p1 wgmma.fence.sync.aligned;".into(), "part of a warp"),
        ("elect.sync %r31|%p3, 0;".into(), "elect.sync"),
    ];
    for (body, want) in table {
        for schedule in SCHEDULES {
            let said = run(256, &body, schedule).expect_err(&body);
            assert!(
                want.split('|').any(|want| said.contains(want)),
                "{schedule:?}: {body}\n{said}\nlacks {want}"
            );
        }
    }
}

#[test]
fn what_is_refused_at_load() {
    for (body, want) in [
        (
            "wgmma.mma_async.sync.aligned.m64n12k16.f32.bf16.bf16 {%r4,%r5}, %rd5, %rd6, 1, 1, 1, 0, 0;",
            "not known",
        ),
        (
            "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%r4,%r5}, %rd5, %rd6, 1, 1, 1, 0, 0;",
            "2 accumulator registers",
        ),
        (
            "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%r4,%r4,%r5,%r6}, %rd5, %rd6, 1, 1, 1, 0, 0;",
            "twice",
        ),
        (
            "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%r2], [%rd1, {%r4, %r5}], [%r3], %r6;",
            "not known",
        ),
        (
            "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%r2], [%rd1, {%r4, %r5}], [%r3];",
            "2 coordinates",
        ),
        ("setmaxnreg.inc.sync.aligned.u32 100;", "multiple of 8"),
        ("barrier.cluster.leave;", "not known"),
        ("mbarrier.arrive.shared.b64 [%r3];", "operands"),
    ] {
        let said = run(128, body, Schedule::Sequential).expect_err(body);
        assert!(said.contains(want), "{body}\n{said}\nlacks {want}");
    }
}
