package org.hetero_tvm.sample;

import android.app.Activity;
import android.os.Bundle;
import android.system.ErrnoException;
import android.system.Os;
import android.widget.TextView;
import java.io.File;
import java.nio.ByteBuffer;
import java.util.Locale;

/** Runs lib/arm64-v8a/libmodel.so on zeros and shows what it took. */
public final class MainActivity extends Activity {
    @Override
    protected void onCreate(Bundle state) {
        super.onCreate(state);
        TextView view = new TextView(this);
        setContentView(view);
        view.setText("loading");
        new Thread(() -> {
            String words = measure();
            runOnUiThread(() -> view.setText(words));
        }).start();
    }

    private String measure() {
        String libraries = getApplicationInfo().nativeLibraryDir;
        try {
            // The NPU's driver looks there for the DSP's side of its libraries.
            Os.setenv("ADSP_LIBRARY_PATH", libraries, true);
            Model.configure("cache.directory", getCacheDir().getPath());
            Model.configure("ort.library", libraries + "/libonnxruntime.so");
            try (Model model = new Model(new File(libraries, "libmodel.so").getPath())) {
                ByteBuffer[] inputs = buffers(model.inputs());
                ByteBuffer[] outputs = buffers(model.outputs());
                model.run(inputs, outputs);
                long start = System.nanoTime();
                model.run(inputs, outputs);
                double ms = (System.nanoTime() - start) / 1e6;
                return String.format(Locale.ROOT, "%.2f ms", ms);
            }
        } catch (HeteroException | ErrnoException | UnsatisfiedLinkError error) {
            return String.valueOf(error.getMessage());
        }
    }

    private static ByteBuffer[] buffers(Model.Tensor[] tensors) {
        ByteBuffer[] made = new ByteBuffer[tensors.length];
        for (int i = 0; i < made.length; ++i) {
            made[i] = Model.buffer(tensors[i]);
        }
        return made;
    }
}
