package org.hetero_tvm.sample;

/** A call of the runtime that failed; its message is the runtime's own line. */
public final class HeteroException extends RuntimeException {
    /** 2 bad input, 3 something is missing on this device, 4 GPU or NPU failed, 5 a fault of ours. */
    public final int code;

    public HeteroException(int code, String message) {
        super(message);
        this.code = code;
    }
}
