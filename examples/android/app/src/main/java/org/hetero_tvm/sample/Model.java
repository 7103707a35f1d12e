package org.hetero_tvm.sample;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;

/** An artefact of `hetero-tvm build`, loaded. One thread at a time; close it when it is done with. */
public final class Model implements AutoCloseable {
    static {
        System.loadLibrary("hetero_jni");
    }

    /** One input or output: its name, its type as numpy calls it, its bytes in all. */
    public static final class Tensor {
        public final String name;
        public final String dtype;
        public final int bytes;

        Tensor(String described) {
            String[] words = described.split(" ");
            name = words[0];
            dtype = words[1];
            bytes = Integer.parseInt(words[2]);
        }
    }

    private long handle;

    /** Check and load the artefact at `path`; nothing of it runs before every byte was checked. */
    public Model(String path) {
        handle = load(path);
    }

    /** A setting of runtime/README.md, as "ort.library"; before the first model is loaded. */
    public static native void configure(String key, String value);

    /** A buffer as the runtime takes it: direct, in the machine's byte order. */
    public static ByteBuffer buffer(Tensor tensor) {
        return ByteBuffer.allocateDirect(tensor.bytes).order(ByteOrder.nativeOrder());
    }

    public Tensor[] inputs() {
        return tensors(false);
    }

    public Tensor[] outputs() {
        return tensors(true);
    }

    /** Run once: `inputs` and `outputs` in the artefact's order, each of the tensor's bytes. */
    public void run(ByteBuffer[] inputs, ByteBuffer[] outputs) {
        for (int i = 0; i < inputs.length; ++i) {
            set(open(), i, inputs[i]);
        }
        run(open());
        for (int i = 0; i < outputs.length; ++i) {
            get(open(), i, outputs[i]);
        }
    }

    @Override
    public void close() {
        if (handle != 0) {
            free(handle);
            handle = 0;
        }
    }

    private Tensor[] tensors(boolean outputs) {
        Tensor[] found = new Tensor[count(open(), outputs)];
        for (int i = 0; i < found.length; ++i) {
            found[i] = new Tensor(describe(handle, outputs, i));
        }
        return found;
    }

    private long open() {
        if (handle == 0) {
            throw new IllegalStateException("the model is closed");
        }
        return handle;
    }

    private static native long load(String path);

    private static native void free(long handle);

    private static native int count(long handle, boolean outputs);

    private static native String describe(long handle, boolean outputs, int index);

    private static native void set(long handle, int index, ByteBuffer data);

    private static native void run(long handle);

    private static native void get(long handle, int index, ByteBuffer data);
}
