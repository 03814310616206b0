import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.PrivateKey;
import java.security.Provider;
import java.security.Security;
import java.security.Signature;
import java.security.cert.Certificate;
import java.security.spec.MGF1ParameterSpec;
import java.security.spec.PSSParameterSpec;
import java.util.Collections;
import java.util.List;

/**
 * Signs a file with every key of the token, and checks the signatures in software.
 *
 * java Sign.java CONFIG FILE [PIN-FILE]
 */
public class Sign {
    public static void main(String[] args) throws Exception {
        Provider provider = Security.getProvider("SunPKCS11").configure(args[0]);
        byte[] content = Files.readAllBytes(Path.of(args[1]));
        char[] pin = args.length > 2 ? Files.readString(Path.of(args[2])).strip().toCharArray() : null;
        KeyStore store = KeyStore.getInstance("PKCS11", provider);
        store.load(null, pin);
        for (String alias : Collections.list(store.aliases())) {
            if (!(store.getKey(alias, null) instanceof PrivateKey key)) {
                continue;
            }
            Certificate certificate = store.getCertificate(alias);
            List<String> algorithms = key.getAlgorithm().equals("EC")
                    ? List.of("SHA256withECDSA", "SHA384withECDSA", "NONEwithECDSA")
                    : List.of("SHA256withRSA", "SHA512withRSA", "RSASSA-PSS");
            for (String algorithm : algorithms) {
                Signature signer = Signature.getInstance(algorithm, provider);
                Signature verifier = Signature.getInstance(algorithm); // the JDK's own
                if (algorithm.equals("RSASSA-PSS")) {
                    PSSParameterSpec pss = new PSSParameterSpec("SHA-256", "MGF1", MGF1ParameterSpec.SHA256, 32, 1);
                    signer.setParameter(pss);
                    verifier.setParameter(pss);
                }
                byte[] signed = algorithm.startsWith("NONE") ? java.security.MessageDigest.getInstance("SHA-256").digest(content) : content;
                signer.initSign(key);
                signer.update(signed);
                byte[] signature = signer.sign();
                verifier.initVerify(certificate);
                verifier.update(signed);
                if (!verifier.verify(signature)) {
                    throw new IllegalStateException(alias + ": the " + algorithm + " signature is wrong");
                }
                System.out.println(alias + ": " + algorithm + ", verified");
            }
        }
    }
}
