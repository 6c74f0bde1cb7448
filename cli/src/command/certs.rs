//! `irongate certs`.

use std::path::Path;

use irongate_deployment::Configuration;
use irongate_pump::certs;

use crate::arguments::Global;
use crate::output;

pub(crate) fn run(global: &Global, directory: &Path) -> anyhow::Result<()> {
    let configuration = Configuration::read(&global.config)?;
    let sites: Vec<&str> = configuration.sites.iter().map(String::as_str).collect();
    let made = certs::make(directory, &configuration.name, &sites)?;
    if global.json {
        let sites: Vec<_> = made
            .sites
            .iter()
            .map(|site| {
                serde_json::json!({ "site": site.site, "certificate": site.certificate, "key": site.key })
            })
            .collect();
        return output::json(&serde_json::json!({
            "authority": made.authority,
            "authority_key": made.authority_key,
            "authority_until": made.authority_until.to_string(),
            "sites": sites,
            "sites_until": made.sites_until.to_string(),
        }));
    }
    let mut table = output::table(&["SITE", "CERTIFICATE", "KEY", "UNTIL"]);
    for site in &made.sites {
        table.add_row([
            output::cell(&site.site, None),
            output::cell(site.certificate.display(), None),
            output::cell(site.key.display(), None),
            output::cell(made.sites_until, None),
        ]);
    }
    output::print(&table)?;
    output::text(format_args!(
        "each site gets \"{}\" and its own two files; \"{}\" goes to a safe place and to no site",
        made.authority.display(),
        made.authority_key.display()
    ))?;
    Ok(())
}
