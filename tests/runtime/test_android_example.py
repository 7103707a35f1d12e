"""The Android sample, as far as it can be tried without Android's SDK."""

import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import tiny_models as tiny
from elf_segments import PAGE_16K, alignments

import hetero_tvm
from hetero_tvm import cross_compiler, runtime

SAMPLE = Path(__file__).parents[2] / "examples" / "android"
MAIN = SAMPLE / "app" / "src" / "main"
NAME = "{http://schemas.android.com/apk/res/android}"

# Runs an artefact of one input and one output: java Try MODEL ORT OPENCL < input > output
TRY = """
import java.nio.ByteBuffer;
import org.hetero_tvm.sample.*;

public final class Try {
    public static void main(String[] words) throws Exception {
        try (Model closed = new Model("/no/such/model.so")) {
            throw new AssertionError("loaded");
        } catch (HeteroException error) {
            System.err.println(error.code + " " + error.getMessage());
        }
        Model.configure("ort.library", words[1]);
        if (!words[2].isEmpty()) Model.configure("opencl.fallback_library", words[2]);
        try (Model model = new Model(words[0])) {
            Model.Tensor in = model.inputs()[0];
            Model.Tensor out = model.outputs()[0];
            System.err.println(in.name + " " + in.dtype + " " + in.bytes);
            ByteBuffer given = Model.buffer(in);
            given.put(System.in.readNBytes(in.bytes)).rewind();
            ByteBuffer found = Model.buffer(out);
            model.run(new ByteBuffer[] {given}, new ByteBuffer[] {found});
            byte[] bytes = new byte[out.bytes];
            found.get(bytes);
            System.out.write(bytes);
            System.out.flush();
            try {
                model.run(new ByteBuffer[] {ByteBuffer.allocate(4)}, new ByteBuffer[0]);
            } catch (IllegalArgumentException error) {
                System.err.println(error.getMessage());
            }
        }
    }
}
"""

# As much of Android as the activity calls; the signatures are those of its documentation.
ANDROID = {
    "android.app.Activity": """extends android.content.Context {
        protected void onCreate(android.os.Bundle state) {}
        public void setContentView(android.view.View view) {}
        public final void runOnUiThread(Runnable action) {} }""",
    "android.content.Context": """{
        public android.content.pm.ApplicationInfo getApplicationInfo() { return null; }
        public java.io.File getCacheDir() { return null; } }""",
    "android.content.pm.ApplicationInfo": "{ public String nativeLibraryDir; }",
    "android.os.Bundle": "{}",
    "android.system.ErrnoException": "extends Exception {}",
    "android.system.Os": """{
        public static void setenv(String name, String value, boolean overwrite)
            throws ErrnoException {} }""",
    "android.view.View": "{}",
    "android.widget.TextView": """extends android.view.View {
        public TextView(android.content.Context context) {}
        public final void setText(CharSequence text) {} }""",
}


def test_the_manifest_asks_for_the_vendors_libraries_and_nothing_else():
    root = ElementTree.parse(MAIN / "AndroidManifest.xml").getroot()
    asked = {
        library.get(f"{NAME}name"): library.get(f"{NAME}required")
        for library in root.iter("uses-native-library")
    }
    assert asked == {"libOpenCL.so": "false", "libcdsprpc.so": "false"}
    assert not list(root.iter("uses-permission"))
    (activity,) = root.iter("activity")
    assert (
        MAIN
        / f"java/org/hetero_tvm/sample{activity.get(f'{NAME}name')}.java".replace(
            "sample.", "sample/"
        )
    ).is_file()


def test_gradle_names_what_is_there():
    text = (SAMPLE / "app" / "build.gradle.kts").read_text()
    namespace = re.search(r'namespace = "([\w.]+)"', text)[1]
    for source in MAIN.rglob("*.java"):
        assert f"package {namespace};" in source.read_text()
        assert source.parent == MAIN / "java" / namespace.replace(".", "/")
    assert (SAMPLE / "app" / re.search(r'path = file\("([^"]+)"\)', text)[1]).is_file()
    assert re.findall(r'abiFilters \+= "([^"]+)"', text) == ["arm64-v8a"]
    assert f"minSdk = {cross_compiler.ANDROID_API}" in text
    assert "useLegacyPackaging = true" in text  # the artefact is opened by path
    assert "keepDebugSymbols" in text  # stripping would take an artefact's description
    assert "ANDROID_SUPPORT_FLEXIBLE_PAGE_SIZES=ON" in text
    header = re.search(r"HETERO_TVM_INCLUDE_DIR=\$\{rootDir\}/([^\"]+)", text)[1]
    assert (SAMPLE / header / "hetero_tvm" / "runtime.h").is_file()
    assert 'include(":app")' in (SAMPLE / "settings.gradle.kts").read_text()
    plugin = 'id("com.android.application")'
    assert plugin in text and plugin in (SAMPLE / "build.gradle.kts").read_text()


def test_every_native_method_has_its_function():
    java = (MAIN / "java/org/hetero_tvm/sample/Model.java").read_text()
    declared = re.findall(r"static native \w+ (\w+)\(", java)
    defined = re.findall(r"^NATIVE\(\w+, (\w+)\)", (MAIN / "cpp/hetero_jni.c").read_text(), re.M)
    assert sorted(declared) == sorted(defined)


@pytest.fixture(scope="module")
def jdk():
    """Folder of a JDK with JNI's header."""
    javac = shutil.which("javac")
    home = Path(javac).resolve().parents[1] if javac else None
    if home is None or not (home / "include" / "jni.h").is_file():
        pytest.skip("no JDK with jni.h (Debian: apt-get install default-jdk-headless)")
    return home


@pytest.fixture(scope="module")
def library(jdk, tmp_path_factory):
    """The sample's JNI library, built for this machine as Gradle has CMake build it."""
    build = tmp_path_factory.mktemp("jni")
    includes = f"-I{jdk / 'include'} -I{jdk / 'include' / 'linux'}"
    words = ["cmake", "-S", MAIN / "cpp", "-B", build, f"-DCMAKE_C_FLAGS={includes}"]
    words += [f"-DHETERO_TVM_INCLUDE_DIR={Path(__file__).parents[2] / 'runtime' / 'include'}"]
    words += [f"-DHETERO_TVM_LIBRARIES_DIR={runtime.LIBRARY.parent}"]
    for command in (words, ["cmake", "--build", build]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return build / "libhetero_jni.so"


def test_it_is_linked_for_pages_of_16_kb(library):
    assert alignments(library) and all(found % PAGE_16K == 0 for found in alignments(library))


def test_the_activity_compiles_against_what_it_calls_of_android(jdk, tmp_path):
    for name, body in ANDROID.items():
        package, _, kind = name.rpartition(".")
        path = tmp_path / "android" / f"{name.replace('.', '/')}.java"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"package {package}; public class {kind} {body}")
    sources = [*MAIN.rglob("*.java"), *(tmp_path / "android").rglob("*.java")]
    javac = [jdk / "bin" / "javac", "-Xlint:all,-serial", "-Werror", "-d", tmp_path / "made"]
    done = subprocess.run([*javac, *sources], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_java_runs_an_artefact_through_it(jdk, library, opencl, tmp_path):
    model = tiny.mlp(tmp_path / "mlp.onnx")
    hetero_tvm.build(model, target="host", output=tmp_path / "mlp.so")
    (tmp_path / "Try.java").write_text(TRY)
    sources = [MAIN / f"java/org/hetero_tvm/sample/{n}.java" for n in ("Model", "HeteroException")]
    javac = [jdk / "bin" / "javac", "-Xlint:all,-try,-serial", "-Werror", "-d", tmp_path, *sources]
    subprocess.run([*javac, tmp_path / "Try.java"], check=True)
    paths = runtime.library_paths()
    found = {name: str(paths[name] or "") for name in ("ort.library", "opencl.fallback_library")}
    x = np.random.default_rng().standard_normal((4, 32), np.float32)
    tvm = [runtime.package_folder(name) / "lib" for name in ("tvm", "tvm_ffi")]
    folders = [*map(str, tvm), str(runtime.LIBRARY.parent)]
    java = [jdk / "bin" / "java", f"-Djava.library.path={library.parent}", "-cp", tmp_path]
    done = subprocess.run(
        [*java, "Try", tmp_path / "mlp.so", *found.values()],
        input=x.tobytes(),
        capture_output=True,
        check=False,
        env={**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(folders)},
    )
    said = done.stderr.decode()
    assert done.returncode == 0, said
    assert said.splitlines()[0].startswith("2 /no/such/model.so: ")
    assert f"x float32 {x.nbytes}" in said and "give a direct ByteBuffer" in said
    wanted = tiny.run_with_onnxruntime(model, x=x)["y"]
    given = np.frombuffer(done.stdout, np.float32).reshape(wanted.shape)
    np.testing.assert_allclose(given, wanted, rtol=1e-4, atol=1e-5)  # float32 sums, another order
