# shellcheck shell=bash
# Certificates and kubeconfigs. Keys are files with mode 0600; none passes through a command line.

make_authority() { # make_authority FOLDER NAME
    openssl ecparam -name prime256v1 -genkey -noout -out "$1/$2.key"
    openssl req -x509 -new -key "$1/$2.key" -subj "/CN=$2" -days 3650 -out "$1/$2.crt"
}

# issue FOLDER AUTHORITY NAME SUBJECT [SUBJECT-ALTERNATIVE-NAMES]
issue() {
    local base=$1/$3 authority=$1/$2
    openssl ecparam -name prime256v1 -genkey -noout -out "$base.key"
    openssl req -new -key "$base.key" -subj "$4" |
        openssl x509 -req -CA "$authority.crt" -CAkey "$authority.key" -set_serial "0x$(openssl rand -hex 8)" -days 3650 \
            -extfile <(
                echo 'extendedKeyUsage=serverAuth,clientAuth'
                [[ -z ${5-} ]] || echo "subjectAltName=$5"
            ) -out "$base.crt" 2>/dev/null
}

# write_kubeconfig FILE SERVER FOLDER AUTHORITY NAME: complete in one file, so it can be copied anywhere.
write_kubeconfig() {
    (
        umask 077
        cat >"$1.new" <<-END
			apiVersion: v1
			kind: Config
			clusters:
			- name: stockpipeline
			  cluster:
			    server: $2
			    certificate-authority-data: $(base64 -w0 <"$3/$4.crt")
			users:
			- name: $5
			  user:
			    client-certificate-data: $(base64 -w0 <"$3/$5.crt")
			    client-key-data: $(base64 -w0 <"$3/$5.key")
			contexts:
			- name: stockpipeline
			  context: {cluster: stockpipeline, user: $5}
			current-context: stockpipeline
			END
    )
    mv "$1.new" "$1"
}
